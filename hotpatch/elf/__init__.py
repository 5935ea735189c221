# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files: headers, symbols, relocations, notes, separate debug files.

Files only: nothing here looks at a process. `hotpatch.elf.file.ElfFile` is the way in. Nothing
is imported from here, so that a command pays only for the modules that it names.
"""
