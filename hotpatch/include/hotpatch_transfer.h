/* SPDX-License-Identifier: MIT */
/*
 * hotpatch_transfer.h: what the state transfer of a patch is written with. hotpatch.h includes it.
 *
 *     static int grow(void)
 *     {
 *         hotpatch_each (i, table_size) {
 *             struct entry *entry = hotpatch_alloc(sizeof *entry);
 *             entry->value = old_table[i].value;
 *             hotpatch_set(table[i], entry);
 *         }
 *         return 0;                                  // anything else: roll back
 *     }
 *     HOTPATCH_TRANSFER(grow);
 *
 * Transfers run in the target while all of its other threads stand still, on a stack of 180 KiB, and
 * before anything of the patch is in force. Whatever they change of the target's memory has to be
 * changed by hotpatch_set, hotpatch_write, or after hotpatch_save: these log what was there. If a
 * transfer fails, crashes or takes too long, the log is undone, newest entry first.
 *
 * All of this is compiled into the patch, and only where it is used. Nothing needs a library: what
 * the target does not have (calloc, free, vsnprintf) is done without.
 */
#ifndef HOTPATCH_TRANSFER_H
#define HOTPATCH_TRANSFER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What hotpatch and the code of a patch know of each other (hotpatch/update/transfer.py). */
struct hotpatch_runtime {
    void (*fail)(void);      /* ends the transfer, and does not return; set by hotpatch */
    char *messages;          /* room for lines of text; set by hotpatch */
    uint64_t messages_room;  /* its size */
    uint64_t messages_size;  /* how much of it is used */
    uint64_t done, total;    /* progress */
    uint64_t logged;         /* bytes of the target's memory in the log */
    struct hotpatch_entry_ *log; /* the newest entry */
    struct hotpatch_block_ *block; /* the memory that the log is in */
    struct hotpatch_shadows_ *shadows;
};

#define HOTPATCH_SHARED_ __attribute__((weak, visibility("hidden")))
HOTPATCH_SHARED_ struct hotpatch_runtime __hotpatch_runtime;

/* Imports that may be missing; their own names might be declared otherwise, or be macros. */
extern void *hotpatch_calloc_(size_t, size_t) __asm__("calloc") __attribute__((weak));
extern void hotpatch_release_(void *) __asm__("free") __attribute__((weak));
extern int hotpatch_format_(char *, size_t, const char *, va_list) __asm__("vsnprintf")
    __attribute__((weak));

/* ---- Failing, and telling the operator ------------------------------------------------------- */

static inline void hotpatch_append_(const char *text, size_t size)
{
    struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    size_t room = runtime->messages_room - runtime->messages_size;
    for (size_t i = 0; i < size && i + 1 < room; i++)
        runtime->messages[runtime->messages_size++] = text[i];
}

static inline size_t hotpatch_length_(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

/* Tell the operator something, as printf(3) would. Each message is a line. */
__attribute__((format(printf, 1, 2))) static inline void hotpatch_say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    if (hotpatch_format_ && hotpatch_format_(line, sizeof line, format, arguments) >= 0)
        hotpatch_append_(line, hotpatch_length_(line));
    else
        hotpatch_append_(format, hotpatch_length_(format));
    va_end(arguments);
    hotpatch_append_("\n", 1);
}

/* End the transfer, from wherever it is, and roll back; `reason` is told to the operator. */
__attribute__((noreturn)) static inline void hotpatch_fail(const char *reason)
{
    hotpatch_append_(reason, hotpatch_length_(reason));
    hotpatch_append_("\n", 1);
    __hotpatch_runtime.fail();
    __builtin_unreachable();
}

/* How far a long transfer is: shown to the operator while it runs. */
static inline void hotpatch_progress(uint64_t done, uint64_t total)
{
    volatile struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    runtime->done = done;
    runtime->total = total;
}

/* ---- The undo log ---------------------------------------------------------------------------- */

enum hotpatch_kind_ {
    HOTPATCH_BYTES_, /* were at `address`, and follow the entry */
    HOTPATCH_NEW_,   /* `address` is to be freed if the transfer fails */
    HOTPATCH_OLD_,   /* `address` is to be freed if it succeeds */
};

struct hotpatch_entry_ {
    struct hotpatch_entry_ *before;
    void *address;
    uint64_t size;
    uint64_t kind;
};

struct hotpatch_block_ {
    struct hotpatch_block_ *before;
    uint64_t size;
    uint64_t used;
};

static inline long hotpatch_syscall_(long number, long one, long two, long three, long four)
{
    register long r10 __asm__("r10") = four;
    register long r8 __asm__("r8") = -1;
    register long r9 __asm__("r9") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(one), "S"(two), "d"(three), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* Return fresh, zeroed memory of whole pages, or null. */
static inline void *hotpatch_map_(size_t size)
{
    long address = hotpatch_syscall_(9, 0, (long)size, 3, 0x22); /* mmap: private, anonymous */
    return address < 0 && address > -4096 ? (void *)0 : (void *)(uintptr_t)address;
}

static inline void hotpatch_unmap_(void *address, size_t size)
{
    hotpatch_syscall_(11, (long)address, (long)size, 0, 0);
}

/* Room for an entry that is not in the log yet. */
static inline struct hotpatch_entry_ *hotpatch_entry_for_(size_t size)
{
    struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    struct hotpatch_block_ *block = runtime->block;
    size_t needed = sizeof(struct hotpatch_entry_) + ((size + 7) & ~(size_t)7);
    if (!block || block->size - block->used < needed) {
        size_t wanted = block && block->size < (64u << 20) ? 2 * block->size : 1u << 20;
        if (block && block->size >= (64u << 20))
            wanted = 64u << 20;
        if (wanted < needed + sizeof *block)
            wanted = (needed + sizeof *block + 4095) & ~(size_t)4095;
        struct hotpatch_block_ *next = (struct hotpatch_block_ *)hotpatch_map_(wanted);
        if (!next)
            hotpatch_fail("there is no memory for the log of what a transfer changes");
        next->before = block;
        next->size = wanted;
        next->used = sizeof *next;
        runtime->block = block = next;
    }
    struct hotpatch_entry_ *entry = (struct hotpatch_entry_ *)((char *)block + block->used);
    block->used += needed;
    return entry;
}

/* From here on the entry will be undone. */
static inline void hotpatch_log_(struct hotpatch_entry_ *entry, const volatile void *address,
                                 size_t size, enum hotpatch_kind_ kind)
{
    struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    entry->before = runtime->log;
    entry->address = (void *)(uintptr_t)address;
    entry->size = size;
    entry->kind = kind;
    if (kind == HOTPATCH_BYTES_)
        runtime->logged += size;
    __asm__ volatile("" ::: "memory"); /* it is whole before it is in the log */
    runtime->log = entry;
    __asm__ volatile("" ::: "memory"); /* and in the log before anything is changed */
}

/* Note what `size` bytes at `address` are now; then they may be changed in any way. */
static inline void hotpatch_save(const volatile void *address, size_t size)
{
    struct hotpatch_entry_ *entry = hotpatch_entry_for_(size);
    __builtin_memcpy(entry + 1, (const void *)(uintptr_t)address, size);
    hotpatch_log_(entry, address, size, HOTPATCH_BYTES_);
}

/* Change `size` bytes at `to` to those at `from`. */
static inline void hotpatch_write(volatile void *to, const void *from, size_t size)
{
    hotpatch_save(to, size);
    __builtin_memcpy((void *)(uintptr_t)to, from, size);
}

/* Change a variable, a member, an element: anything that has an address. */
#define hotpatch_set(variable, value)                                                              \
    do {                                                                                           \
        hotpatch_save(&(variable), sizeof(variable));                                              \
        (variable) = (value);                                                                      \
    } while (0)

/* ---- Memory ---------------------------------------------------------------------------------- */

/*
 * Zeroed memory from the program's own allocator, which the program may free. It is freed again if
 * the transfer fails. Does not return null.
 */
static inline void *hotpatch_alloc(size_t size)
{
    struct hotpatch_entry_ *entry = hotpatch_entry_for_(0);
    void *memory = hotpatch_calloc_ ? hotpatch_calloc_(1, size ? size : 1) : (void *)0;
    if (!memory)
        hotpatch_fail(hotpatch_calloc_ ? "there is no memory for a transfer"
                                       : "the target has no calloc for hotpatch_alloc");
    hotpatch_log_(entry, memory, size, HOTPATCH_NEW_);
    return memory;
}

/* Free what the program had allocated, once the transfer has succeeded. */
static inline void hotpatch_free(void *memory)
{
    if (memory)
        hotpatch_log_(hotpatch_entry_for_(0), memory, 0, HOTPATCH_OLD_);
}

static inline void hotpatch_free_logged_(struct hotpatch_entry_ *entry, uint64_t kind)
{
    for (; entry; entry = entry->before)
        if (entry->kind == kind && hotpatch_release_)
            hotpatch_release_(entry->address);
}

static inline void hotpatch_forget_log_(void)
{
    struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    struct hotpatch_block_ *block = runtime->block;
    runtime->log = (struct hotpatch_entry_ *)0;
    runtime->block = (struct hotpatch_block_ *)0;
    while (block) {
        struct hotpatch_block_ *before = block->before;
        hotpatch_unmap_(block, block->size);
        block = before;
    }
}

/* Called by hotpatch when a transfer has failed: put everything back. */
static inline void hotpatch_rollback_(void)
{
    for (struct hotpatch_entry_ *entry = __hotpatch_runtime.log; entry; entry = entry->before)
        if (entry->kind == HOTPATCH_BYTES_)
            __builtin_memcpy(entry->address, entry + 1, entry->size);
}

/* Called by hotpatch afterwards, whether the transfer has failed or not. */
static inline void hotpatch_settle_(int failed)
{
    __hotpatch_runtime.fail = (void (*)(void))0; /* first: the rest may be given up */
    hotpatch_free_logged_(__hotpatch_runtime.log, failed ? HOTPATCH_NEW_ : HOTPATCH_OLD_);
    hotpatch_forget_log_();
}

/* ---- Going through arrays and lists ---------------------------------------------------------- */

/* For `index` from 0 to `count` - 1, with progress. */
#define hotpatch_each(index, count)                                                                \
    for (size_t index = 0, hotpatch_count_ = (size_t)(count);                                      \
         hotpatch_progress(index, hotpatch_count_), index < hotpatch_count_; index++)

/* For each node of a list that ends with null; the node may be changed or replaced meanwhile. */
#define hotpatch_each_in_list(node, head, next)                                                    \
    for (__typeof__(head) node = (head), hotpatch_next_;                                           \
         node && ((hotpatch_next_ = node->next), 1); node = hotpatch_next_)

/* ---- Making objects anew --------------------------------------------------------------------- */

/*
 * For objects that refer to each other in any way: what was `object` is made anew, once, and the
 * address of the new one is returned, however often it is asked for. It is filled later, by
 * `copy(new, object)`, which may ask for others; hotpatch_move_all() sees to that, for all that were
 * asked for, and gives the old ones back. hotpatch_visit() is the same for one that stays where it
 * is: `copy(object, object)` is called once. Null is returned for null.
 */
typedef void hotpatch_copy_(void *to, const void *from);

struct hotpatch_move_ {
    void *from, *to;
    hotpatch_copy_ *copy;
};

struct hotpatch_moves_ {
    struct hotpatch_move_ *list; /* in the order in which they were asked for */
    uint64_t count, room;
    uint32_t *slots; /* a hash table of numbers in the list, from 1 on; twice as large */
};

static inline struct hotpatch_moves_ *hotpatch_moves_(void)
{
    static struct hotpatch_moves_ moves;
    return &moves;
}

static inline uint64_t hotpatch_slot_(const void *object, uint64_t slots)
{
    uint64_t hash = (uint64_t)(uintptr_t)object * 0x9e3779b97f4a7c15u;
    return (hash >> 20) & (slots - 1);
}

static inline void hotpatch_place_(struct hotpatch_moves_ *moves, uint64_t number)
{
    uint64_t at = hotpatch_slot_(moves->list[number - 1].from, 2 * moves->room);
    while (moves->slots[at])
        at = (at + 1) & (2 * moves->room - 1);
    moves->slots[at] = (uint32_t)number;
}

static inline void hotpatch_give_room_(struct hotpatch_moves_ *moves)
{
    struct hotpatch_moves_ more = *moves;
    more.room = moves->room ? 2 * moves->room : 4096;
    more.list = (struct hotpatch_move_ *)hotpatch_map_(more.room * sizeof *more.list);
    more.slots = (uint32_t *)hotpatch_map_(2 * more.room * sizeof *more.slots);
    if (!more.list || !more.slots)
        hotpatch_fail("there is no memory for the list of objects that are made anew");
    if (moves->room) {
        __builtin_memcpy(more.list, moves->list, moves->count * sizeof *more.list);
        hotpatch_unmap_(moves->list, moves->room * sizeof *moves->list);
        hotpatch_unmap_(moves->slots, 2 * moves->room * sizeof *moves->slots);
    }
    *moves = more;
    for (uint64_t number = 1; number <= moves->count; number++)
        hotpatch_place_(moves, number);
}

static inline void *hotpatch_moved_(void *object, size_t size, hotpatch_copy_ *copy)
{
    struct hotpatch_moves_ *moves = hotpatch_moves_();
    if (!object)
        return object;
    if (moves->count == moves->room)
        hotpatch_give_room_(moves);
    for (uint64_t at = hotpatch_slot_(object, 2 * moves->room); moves->slots[at];
         at = (at + 1) & (2 * moves->room - 1))
        if (moves->list[moves->slots[at] - 1].from == object)
            return moves->list[moves->slots[at] - 1].to;
    struct hotpatch_move_ *move = &moves->list[moves->count++];
    move->from = object;
    move->to = size ? hotpatch_alloc(size) : object;
    move->copy = copy;
    hotpatch_place_(moves, moves->count);
    return move->to;
}

static inline void *hotpatch_move(void *object, size_t size, hotpatch_copy_ *copy)
{
    return hotpatch_moved_(object, size ? size : 1, copy);
}

static inline void *hotpatch_visit(void *object, hotpatch_copy_ *copy)
{
    return hotpatch_moved_(object, 0, copy);
}

static inline void hotpatch_move_all(void)
{
    struct hotpatch_moves_ *moves = hotpatch_moves_();
    for (uint64_t i = 0; i < moves->count; i++) {
        struct hotpatch_move_ move = moves->list[i]; /* the list may grow, and lie elsewhere */
        hotpatch_progress(i, moves->count);
        move.copy(move.to, move.from);
        if (move.to != move.from)
            hotpatch_free(move.from);
    }
    if (moves->room) {
        hotpatch_unmap_(moves->list, moves->room * sizeof *moves->list);
        hotpatch_unmap_(moves->slots, 2 * moves->room * sizeof *moves->slots);
    }
    __builtin_memset(moves, 0, sizeof *moves);
}

/* ---- Shadow variables ------------------------------------------------------------------------ */

/*
 * More members for an object of the target whose layout stays as it is: data that belongs to the
 * object at an address, under an id of yours. New code and transfers may use them, in any thread.
 *
 *     struct extra *extra = hotpatch_shadow_attach(session, EXTRA, sizeof *extra);
 *
 * A shadow lives until it is freed: replace the function that frees the object, and call
 * hotpatch_shadow_free there. Those that are left when the patch is taken out are freed then.
 */
struct hotpatch_shadow_ {
    struct hotpatch_shadow_ *next;
    const void *object;
    uint64_t id;
    uint64_t unused; /* what follows is aligned to 16 bytes, as malloc would */
};

struct hotpatch_shadows_ {
    int lock;
    struct hotpatch_shadow_ *buckets[1021];
};

/* All other threads stand still, and what is changed may have to be put back. */
static inline int hotpatch_transferring_(void)
{
    return __hotpatch_runtime.fail != (void (*)(void))0;
}

static inline void hotpatch_lock_shadows_(struct hotpatch_shadows_ *shadows)
{
    while (!hotpatch_transferring_() && __atomic_exchange_n(&shadows->lock, 1, __ATOMIC_ACQUIRE))
        hotpatch_syscall_(24, 0, 0, 0, 0); /* sched_yield */
}

static inline void hotpatch_unlock_shadows_(struct hotpatch_shadows_ *shadows)
{
    if (!hotpatch_transferring_())
        __atomic_store_n(&shadows->lock, 0, __ATOMIC_RELEASE);
}

static inline void *hotpatch_shadow_memory_(size_t size)
{
    if (hotpatch_transferring_())
        return hotpatch_alloc(size);
    return hotpatch_calloc_ ? hotpatch_calloc_(1, size) : (void *)0;
}

/* Called by hotpatch when the patch is taken out, by way of .fini_array. */
static inline void hotpatch_end_shadows_(void)
{
    struct hotpatch_shadows_ *shadows = __hotpatch_runtime.shadows;
    __hotpatch_runtime.shadows = (struct hotpatch_shadows_ *)0;
    for (size_t i = 0; shadows && i < sizeof shadows->buckets / sizeof *shadows->buckets; i++)
        for (struct hotpatch_shadow_ *shadow = shadows->buckets[i], *next; shadow; shadow = next) {
            next = shadow->next;
            hotpatch_release_(shadow);
        }
    if (shadows)
        hotpatch_release_(shadows);
}

/* The table, made when it is first needed; null without memory for it. */
static inline struct hotpatch_shadows_ *hotpatch_shadows_(void)
{
    static void (*end)(void) __attribute__((section(".fini_array"))) = hotpatch_end_shadows_;
    struct hotpatch_runtime *runtime = &__hotpatch_runtime;
    __asm__ volatile("" : : "r"(&end)); /* it is there if and only if this function is */
    struct hotpatch_shadows_ *there = __atomic_load_n(&runtime->shadows, __ATOMIC_ACQUIRE);
    if (there)
        return there;
    struct hotpatch_shadows_ *fresh =
        (struct hotpatch_shadows_ *)hotpatch_shadow_memory_(sizeof *fresh);
    if (hotpatch_transferring_())
        hotpatch_save(&runtime->shadows, sizeof runtime->shadows);
    if (!fresh || __atomic_compare_exchange_n(&runtime->shadows, &there, fresh, 0,
                                              __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return fresh;
    hotpatch_release_(fresh); /* another thread was quicker */
    return there;
}

/* Where the pointer to a shadow is, or would be. */
static inline struct hotpatch_shadow_ **hotpatch_shadow_link_(struct hotpatch_shadows_ *shadows,
                                                              const void *object, uint64_t id)
{
    uint64_t hash = ((uint64_t)(uintptr_t)object >> 3) * 0x9e3779b97f4a7c15u ^ id;
    struct hotpatch_shadow_ **link =
        &shadows->buckets[hash % (sizeof shadows->buckets / sizeof *shadows->buckets)];
    while (*link && ((*link)->object != object || (*link)->id != id))
        link = &(*link)->next;
    return link;
}

/* The data of an object under an id; null if it has none. */
static inline void *hotpatch_shadow_find(const void *object, uint64_t id)
{
    struct hotpatch_shadows_ *shadows =
        __atomic_load_n(&__hotpatch_runtime.shadows, __ATOMIC_ACQUIRE);
    if (!shadows)
        return (void *)0;
    hotpatch_lock_shadows_(shadows);
    struct hotpatch_shadow_ *shadow = *hotpatch_shadow_link_(shadows, object, id);
    hotpatch_unlock_shadows_(shadows);
    return shadow ? shadow + 1 : (void *)0;
}

/* The same; if it has none, zeroed memory is attached. Null where there is no memory. */
static inline void *hotpatch_shadow_attach(const void *object, uint64_t id, size_t size)
{
    struct hotpatch_shadows_ *shadows = hotpatch_shadows_();
    if (!shadows)
        return (void *)0;
    hotpatch_lock_shadows_(shadows);
    struct hotpatch_shadow_ **link = hotpatch_shadow_link_(shadows, object, id);
    struct hotpatch_shadow_ *shadow = *link;
    if (!shadow) {
        shadow = (struct hotpatch_shadow_ *)hotpatch_shadow_memory_(sizeof *shadow + size);
        if (shadow) {
            shadow->object = object;
            shadow->id = id;
            if (hotpatch_transferring_())
                hotpatch_save(link, sizeof *link);
            *link = shadow;
        }
    }
    hotpatch_unlock_shadows_(shadows);
    return shadow ? shadow + 1 : (void *)0;
}

/* Free the data of an object under an id, if it has any. */
static inline void hotpatch_shadow_free(const void *object, uint64_t id)
{
    struct hotpatch_shadows_ *shadows =
        __atomic_load_n(&__hotpatch_runtime.shadows, __ATOMIC_ACQUIRE);
    if (!shadows)
        return;
    hotpatch_lock_shadows_(shadows);
    struct hotpatch_shadow_ **link = hotpatch_shadow_link_(shadows, object, id);
    struct hotpatch_shadow_ *shadow = *link;
    if (shadow) {
        if (hotpatch_transferring_())
            hotpatch_save(link, sizeof *link);
        *link = shadow->next;
    }
    hotpatch_unlock_shadows_(shadows);
    if (shadow && hotpatch_transferring_())
        hotpatch_free(shadow);
    else if (shadow)
        hotpatch_release_(shadow);
}

#ifdef __cplusplus
}
#endif

#endif
