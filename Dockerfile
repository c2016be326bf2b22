# The workspace in a container; see "Devices" in WORKSPACE.md.
#
#   docker build -t attune .                                     # CPU
#   docker build -t attune --build-arg EXTRAS=gpu,report,rl .    # NVIDIA GPUs
#   docker run --rm -v "$PWD/runs:/attune/runs" attune performer.train \
#     --gin_file=configs/performer/protein_mlm_tiny.gin
#
# With GPUs add `--gpus all` to `docker run`.
FROM python:3.11-slim
ARG EXTRAS=report,rl
# Procgen of EnvPool needs Qt 5, pictures of MuJoCo need OSMesa.
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends \
    git libosmesa6 libqt5core5a libqt5gui5 \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /attune
COPY . .
RUN pip install --no-cache-dir -c requirements.txt -e ".[${EXTRAS}]"
# Compiled programs stay between containers if a volume lies here.
ENV JAX_COMPILATION_CACHE_DIR=/attune/runs/.jax_cache
# Memory of training steps in large pages.
ENV GLIBC_TUNABLES=glibc.malloc.hugetlb=1
ENTRYPOINT ["python", "-m"]
CMD ["performer.train", "--help"]
