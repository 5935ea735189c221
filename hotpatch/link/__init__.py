# SPDX-License-Identifier: GPL-2.0-or-later
"""Placing and relocating the image of a patch against a live target.

The patcher is the dynamic linker here, as no code may run in the target before the commit
(P6 in the design): it decides what every symbol of the patch means in the target, and computes the
finished image from the patch file and from memory of the target that it reads. Nothing
here writes.

`hotpatch.link.image.link` is the way in; `hotpatch.link.scope` finds functions in the target.
"""
