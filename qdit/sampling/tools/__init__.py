"""Tools of other people (torchao, optimum-quanto, SDNQ) as rows: each quantizes diffusers' form in its own process."""
