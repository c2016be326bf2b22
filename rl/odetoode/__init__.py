"""ODEtoODE: neural ODEs driven by flows on the orthogonal group."""
