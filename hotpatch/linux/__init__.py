# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's side: ptrace requests, stopping threads, remote memory, remote calls, /proc.

The only package that makes ptrace, /proc or process_vm calls.
"""
