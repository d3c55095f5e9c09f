"""The compared methods, one file each. `qdit.methods.registry` imports every module of this folder."""
