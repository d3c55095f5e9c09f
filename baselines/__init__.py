"""The compared methods, one file each; `qdit.methods.registry` finds every module in this folder."""
