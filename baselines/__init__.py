"""The compared methods, one file each; `qdit.method.registry()` finds every module in this folder."""
