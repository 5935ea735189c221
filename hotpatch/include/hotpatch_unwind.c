/* SPDX-License-Identifier: MIT */
/*
 * Makes the frames of a patch known to the C++ run-time system, so that exceptions can be thrown in
 * it and through it. `hotpatch build` links this into patches of C++ code, before all else.
 *
 * The run-time system finds the frames of what the dynamic linker has loaded, which a patch is
 * not, and of what was registered (libgcc's unwind-dw2-fde.c). Registering takes its lock, which
 * nobody holds for long before the first registration, and allocates nothing up to gcc 12.
 */
extern void __register_frame_info(const void *, void *) __attribute__((weak));
extern void *__deregister_frame_info(const void *) __attribute__((weak));

extern const char hotpatch_frames[] __attribute__((visibility("hidden")));
__asm__(".pushsection .eh_frame,\"a\",@progbits\n"
        ".hidden hotpatch_frames\n"
        ".globl hotpatch_frames\n"
        "hotpatch_frames:\n"
        ".popsection");

static void *object[8]; /* a `struct object` of libgcc has six words */

__attribute__((constructor)) static void announce(void)
{
    if (__register_frame_info)
        __register_frame_info(hotpatch_frames, object);
}

__attribute__((destructor)) static void withdraw(void)
{
    if (__deregister_frame_info)
        __deregister_frame_info(hotpatch_frames);
}
