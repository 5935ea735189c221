# SPDX-License-Identifier: GPL-2.0-or-later
"""The patch file: a shared object, its manifest, and whether it is one that can be linked.

`hotpatch.patch.file.PatchFile.open` is the way in. Files only: nothing here looks at a process.
"""
