"""The compared methods, one file each; `qdit.methods.method.registry()` finds every module in this folder."""
