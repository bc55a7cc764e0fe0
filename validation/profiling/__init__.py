"""Measure this machine into an accelerator profile and a stack (``ridgeline profile``).

The way: ``cases`` says what is run, ``sampling`` runs it round by round within a time limit and
keeps every sample, ``ranks`` starts the processes, ``fitting`` turns medians into efficiency
parameters, ``writing`` into files that every other command reads. ``transformer`` is the plain
model that ``--train`` trains. Everything but ``cases`` and ``samples`` needs the extra
``profile``.
"""
