/* SPDX-License-Identifier: MIT */
/*
 * hotpatch.h: what the C source of a patch says to hotpatch.
 *
 *     #include <hotpatch.h>
 *
 *     extern int limit;                  // the target's own variable, static or not
 *
 *     int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x) + limit; }
 *     HOTPATCH_REPLACE(compute);
 *
 * Compile with any gcc or clang: cc $(hotpatch cflags) -shared -fPIC -O2 -g fix.c -o fix.so
 *
 * Nothing here makes code or needs a library. Each declaration becomes a record in the section
 * "hotpatch_records" of the shared object, which stripping leaves. A symbol that the patch leaves
 * undefined is bound to the target: to its global and static symbols, then to the libraries it
 * has loaded.
 */
#ifndef HOTPATCH_H
#define HOTPATCH_H

#include <stdint.h>

#if !defined(__GNUC__) || !defined(__ELF__) || !defined(__x86_64__) || defined(__ILP32__)
#error "hotpatch.h: patches are made by gcc or clang for 64-bit x86 Linux"
#endif

/* ---- Replacing functions -------------------------------------------------------------------- */

/* The function `f` of this file takes the place of the target's `f`, be they static or not. */
#define HOTPATCH_REPLACE(f) HOTPATCH_REPLACE_AS(f, f)

/* The same for a static function of the target whose name occurs in several of its source files. */
#define HOTPATCH_REPLACE_STATIC(source_file, f) HOTPATCH_REPLACE_STATIC_AS(source_file, f, f)

/* The function `replacement` of this file takes the place of the target's `target_function`. */
#define HOTPATCH_REPLACE_AS(target_function, replacement)                                          \
    HOTPATCH_RECORD_(replace_##replacement, HOTPATCH_KIND_REPLACE,                                 \
                     #target_function "=" #replacement, 0,                                         \
                     HOTPATCH_ADDRESS_(replacement))
#define HOTPATCH_REPLACE_STATIC_AS(source_file, target_function, replacement)                      \
    HOTPATCH_RECORD_(replace_##replacement, HOTPATCH_KIND_REPLACE,                                 \
                     #target_function "=" #replacement, source_file,                               \
                     HOTPATCH_ADDRESS_(replacement))

/*
 * The function `f` of this file takes the place of the target's `f`, but has other parameters, or
 * another result. What is in this file calls it as it is now; code of the target, which knows the
 * old one, gets to `adapter`, which has the type of the old one and calls the new one.
 */
#define HOTPATCH_ADAPT(f, adapter)                                                                 \
    HOTPATCH_RECORD_(adapt_##adapter, HOTPATCH_KIND_ADAPT, #f "=" #adapter, 0,                     \
                     HOTPATCH_ADDRESS_(adapter))
#define HOTPATCH_ADAPT_STATIC(source_file, f, adapter)                                             \
    HOTPATCH_RECORD_(adapt_##adapter, HOTPATCH_KIND_ADAPT, #f "=" #adapter, source_file,           \
                     HOTPATCH_ADDRESS_(adapter))

/*
 * The function that `f`, a replacement in this file, takes the place of: what the target ran before
 * this patch. Call it, or take its address, wherever `f` is declared:
 * HOTPATCH_ORIGINAL(compute)(x). The plain name is the replacement.
 */
#define HOTPATCH_ORIGINAL(f) HOTPATCH_ORIGINAL_EXPANDED_(f)
#define HOTPATCH_ORIGINAL_EXPANDED_(f)                                                             \
    (__extension__({                                                                               \
        extern __typeof__(f) __hotpatch_original_##f HOTPATCH_IMPORT_("__hotpatch_original_" #f);  \
        __hotpatch_original_##f;                                                                   \
    }))

/* ---- Naming static functions and data of the target ----------------------------------------- */

/*
 * Plain `extern` declarations reach the target's static functions and data too, where the name is
 * used once. These say which one is meant, by the source file that defines it:
 *
 *     HOTPATCH_EXTERN_STATIC("parse.c", int, parse_line, (const char *));
 *     HOTPATCH_EXTERN_STATIC_DATA("parse.c", int[16], line_lengths);
 *
 * The _AS forms give it a name of its own in the patch, for two of the same name. _THREAD is
 * for thread-local data.
 */
#define HOTPATCH_EXTERN_STATIC(source_file, result, name, parameters)                              \
    HOTPATCH_EXTERN_STATIC_AS(name, source_file, result, name, parameters)
#define HOTPATCH_EXTERN_STATIC_AS(alias, source_file, result, name, parameters)                    \
    extern __typeof__(result) alias parameters HOTPATCH_IMPORT_("__hotpatch_static_" #alias);      \
    HOTPATCH_STATIC_RECORD_(alias, source_file, name)

#define HOTPATCH_EXTERN_STATIC_DATA(source_file, type, name)                                       \
    HOTPATCH_EXTERN_STATIC_DATA_AS(name, source_file, type, name)
#define HOTPATCH_EXTERN_STATIC_DATA_AS(alias, source_file, type, name)                             \
    extern __typeof__(type) alias HOTPATCH_IMPORT_("__hotpatch_static_" #alias);                   \
    HOTPATCH_STATIC_RECORD_(alias, source_file, name)

#define HOTPATCH_EXTERN_STATIC_THREAD(source_file, type, name)                                     \
    HOTPATCH_EXTERN_STATIC_THREAD_AS(name, source_file, type, name)
#define HOTPATCH_EXTERN_STATIC_THREAD_AS(alias, source_file, type, name)                           \
    extern __thread __typeof__(type) alias HOTPATCH_IMPORT_("__hotpatch_static_" #alias);          \
    HOTPATCH_STATIC_RECORD_(alias, source_file, name)

/* ---- Update points --------------------------------------------------------------------------- */

/*
 * The target's function `f` is a place where the patch may be applied: a thread at its entry is not
 * in the way, even if functions that are replaced are on its stack and go on in their old code when
 * `f` returns to them. So an event loop can be replaced together with what it calls: name what it
 * calls once a round. Whether the loop's old code and the functions' new code work together is for
 * you to know.
 */
#define HOTPATCH_UPDATE_POINT(f)                                                                   \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_UPDATE_POINT, #f, 0)
#define HOTPATCH_UPDATE_POINT_STATIC(source_file, f)                                               \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_UPDATE_POINT, #f, source_file)

/* ---- What the patch is for, and its name ----------------------------------------------------- */

/*
 * The build-id, in hexadecimal, of the program that the patch is made for, or of the library with
 * that soname or file name.
 */
#define HOTPATCH_FOR_BUILD_ID(build_id)                                                            \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_BUILD_ID, 0, build_id)
#define HOTPATCH_FOR_MODULE_BUILD_ID(module, build_id)                                             \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_BUILD_ID, module, build_id)

/* A name for lists and messages (else that of the file), and a line on what the patch does. */
#define HOTPATCH_NAME(text)                                                                        \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_NAME, text, 0)
#define HOTPATCH_DESCRIPTION(text)                                                                 \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_DESCRIPTION, text, 0)

/* ---- Carrying state over --------------------------------------------------------------------- */

/*
 * `int f(void)` is run in the target at the commit, while all other threads stand still; what it is
 * written with is in hotpatch_transfer.h. First all checks are run, then all transfers, in the order
 * of this file; then the patch is in force. Should any return anything but 0, crash, or not end in
 * time, then what was changed is put back, and the patch is not applied. A reverse is run when the
 * patch is taken out, before the old code is in force again: a patch with a transfer needs one,
 * be it empty, to be reverted.
 */
#define HOTPATCH_CHECK(f) HOTPATCH_TRANSFER_RECORD_(check_##f, f, HOTPATCH_KIND_CHECK)
#define HOTPATCH_TRANSFER(f) HOTPATCH_TRANSFER_RECORD_(transfer_##f, f, HOTPATCH_KIND_TRANSFER)
#define HOTPATCH_REVERSE(f) HOTPATCH_TRANSFER_RECORD_(reverse_##f, f, HOTPATCH_KIND_REVERSE)

/*
 * The target's `target_type` is another one with this patch: here it is `new_type`, and what the
 * target has now is `old_type`. Any of the three may be the same name:
 *
 *     HOTPATCH_TYPE(struct entry, struct entry_v1, struct entry);
 *
 * A transfer has to turn the old ones into new ones. Every function of the target with a variable or
 * parameter of such a type, or that points to one, has to be replaced; `f` is one that need not be,
 * as it only hands them on.
 */
#define HOTPATCH_TYPE(target_type, old_type, new_type)                                             \
    HOTPATCH_COMPLETE_(old_type);                                                                  \
    HOTPATCH_COMPLETE_(new_type);                                                                  \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_TYPE, #target_type "=" #new_type,         \
                              #old_type)
#define HOTPATCH_UNAFFECTED(f)                                                                     \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_UNAFFECTED, #f, 0)
#define HOTPATCH_UNAFFECTED_STATIC(source_file, f)                                                 \
    HOTPATCH_NUMBERED_RECORD_(__COUNTER__, HOTPATCH_KIND_UNAFFECTED, #f, source_file)

/* ---- The records: what hotpatch reads (hotpatch/patch/manifest.py) --------------------------- */

struct hotpatch_record {
    uint32_t kind;         /* one of HOTPATCH_KIND_* */
    uint32_t version;      /* of the meaning of this kind: HOTPATCH_RECORD_VERSION */
    const char *name;      /* what it is about */
    const char *extra;     /* a source file, a build-id, or null */
    void (*address)(void); /* the function in the patch, or null */
};

#define HOTPATCH_RECORD_VERSION 1

#define HOTPATCH_KIND_REPLACE 1     /* "target=replacement", source file or null, code */
#define HOTPATCH_KIND_STATIC 2      /* "alias=name", source file */
#define HOTPATCH_KIND_BUILD_ID 3    /* module or null for the program, hexadecimal build-id */
#define HOTPATCH_KIND_NAME 4        /* text */
#define HOTPATCH_KIND_DESCRIPTION 5 /* text */
#define HOTPATCH_KIND_UPDATE_POINT 8 /* function of the target, source file or null */
#define HOTPATCH_KIND_TRANSFER 14    /* name of the function, "source file:line", code */
#define HOTPATCH_KIND_REVERSE 23     /* the same */
#define HOTPATCH_KIND_CHECK 25       /* the same */
#define HOTPATCH_KIND_ADAPT 28       /* as REPLACE */
#define HOTPATCH_KIND_UNAFFECTED 41  /* function of the target, source file or null */
#define HOTPATCH_KIND_TYPE 42        /* "target=new", the old one: types as C spells them */
#define HOTPATCH_KIND_RUNTIME 26     /* "rollback" or "settle", struct hotpatch_runtime, code */

#if defined(__has_attribute)
#if __has_attribute(retain) && (!defined(__clang__) || __clang_major__ >= 13)
#define HOTPATCH_KEEP_ __attribute__((used, retain)) /* --gc-sections leaves it too */
#endif
#endif
#ifndef HOTPATCH_KEEP_
#define HOTPATCH_KEEP_ __attribute__((used))
#endif

/* An undefined symbol of exactly this name, in C and C++, whatever visibility is the default. */
#define HOTPATCH_IMPORT_(symbol) __asm__(symbol) __attribute__((visibility("default")))

#ifdef __cplusplus
#define HOTPATCH_ADDRESS_(f) reinterpret_cast<void (*)(void)>(&f)
#define HOTPATCH_COMPLETE_(type) static_assert(sizeof(type) > 0, #type)
#define HOTPATCH_INT_VOID_(f) static_assert(sizeof(static_cast<int (*)(void)>(&f)), "int f(void)")
#else
#define HOTPATCH_ADDRESS_(f) (void (*)(void))&f
#define HOTPATCH_COMPLETE_(type) _Static_assert(sizeof(type) > 0, #type)
#define HOTPATCH_INT_VOID_(f)                                                                      \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&f), int (*)(void)),                    \
                   #f " has to be int " #f "(void)")
#endif

/* The alignment is said, or compilers raise that of large objects and leave gaps between them. */
#define HOTPATCH_RECORD_(id, kind, name, extra, address)                                           \
    static struct hotpatch_record __hotpatch_record_##id HOTPATCH_KEEP_                            \
        __attribute__((section("hotpatch_records"), aligned(8))) = {                               \
            kind, HOTPATCH_RECORD_VERSION, name, extra, address}

#define HOTPATCH_NUMBERED_RECORD_(number, kind, name, extra)                                       \
    HOTPATCH_NUMBERED_RECORD_EXPANDED_(number, kind, name, extra)
#define HOTPATCH_NUMBERED_RECORD_EXPANDED_(number, kind, name, extra)                              \
    HOTPATCH_RECORD_(number_##number, kind, name, extra, 0)

#define HOTPATCH_TRANSFER_RECORD_(id, f, kind)                                                     \
    HOTPATCH_INT_VOID_(f);                                                                         \
    HOTPATCH_RUNTIME_RECORD_(__COUNTER__, "rollback", HOTPATCH_ADDRESS_(hotpatch_rollback_));      \
    HOTPATCH_RUNTIME_RECORD_(__COUNTER__, "settle", HOTPATCH_ADDRESS_(hotpatch_settle_));          \
    HOTPATCH_RECORD_(id, kind, #f, __FILE__ ":" HOTPATCH_TEXT_(__LINE__),                     \
                     HOTPATCH_ADDRESS_(f))

#define HOTPATCH_RUNTIME_RECORD_(number, name, address)                                            \
    HOTPATCH_RUNTIME_RECORD_EXPANDED_(number, name, address)
#define HOTPATCH_RUNTIME_RECORD_EXPANDED_(number, name, address)                                   \
    HOTPATCH_RECORD_(number_##number, HOTPATCH_KIND_RUNTIME, name,                                 \
                     (const char *)&__hotpatch_runtime, address)
#define HOTPATCH_TEXT_(number) HOTPATCH_TEXT_EXPANDED_(number)
#define HOTPATCH_TEXT_EXPANDED_(number) #number

#define HOTPATCH_STATIC_RECORD_(alias, source_file, name)                                          \
    HOTPATCH_RECORD_(static_##alias, HOTPATCH_KIND_STATIC, #alias "=" #name, source_file, 0)

#include "hotpatch_transfer.h"

#endif
