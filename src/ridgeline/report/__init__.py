"""Results as pages: records in, sections with charts out, one self-contained HTML file at last.

``records`` holds what a page consists of, ``charts`` draws, ``train`` and its neighbours choose
what a command's page says, ``page`` writes HTML. Nothing here changes a result.
"""
