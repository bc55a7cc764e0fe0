"""The local web application: a link holds a scenario, a page shows what it answers.

``fields`` says what a form asks, ``scenario`` turns links into scenarios and plan files,
``answers`` asks the simulator, ``workers`` keeps that within bounds of time and memory, ``app``
serves. Nothing is kept but what a link says.
"""
