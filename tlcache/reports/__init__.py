"""What a run leaves behind, and pages of it: its folder, records, pictures, the HTML page.

A page holds its own style, script and pictures, and its content security policy forbids it to
load anything else. Names of files and classes are hostile text to it. Trains nothing. Read ``run``
first; a page is made of ``material``, by ``sections``, and written by ``page``.
"""
