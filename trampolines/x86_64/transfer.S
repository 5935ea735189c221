/* SPDX-License-Identifier: GPL-2.0-or-later

   The commit program: runs checks and transfers of a patch, or its reverses, and then sets the
   switch; or puts everything back. Run by a borrowed thread while all others are held, by the
   patcher or, should that die, by parking.S, until this program lets them go.

   A fault, a call of abort(3), or the end of the time is a signal of this thread. Its handler lies
   in here, for as long as the program runs, and leads to the rollback. Nothing of that needs a
   patcher.

   On entry   rbx   address of the job: the offsets below
              r13   8 bytes into a signal frame, behind its return address
              rsp   top of a stack, 16-byte aligned
   On exit    to home.S, with the job's status
   Clobbers   everything, FPU and vector registers included; the signal frame restores it.
   Symbols    job   address of the job; within 2 GB

   The job (hotpatch/update/job.py), in writable memory:
       0    0 idle, 1 running: the others are to wait, 2 over
       4    status: 0 none, 1 done, 2 a function returned `code`, 3 it got the signal `code`, 4 out of
            time, 5 given up by the patch, 6 a system call failed with the error `code`, 7 the
            rollback itself failed, 16 the system call `code` was refused; any other is the patcher's
       8    code
       16   which function runs
       20   1 if memory that is not needed could not be freed
       24   phase: 0 functions, 1 rollback, 2 settling
       28   a signal of somebody else's, to be sent again at the end
       32   timer, and whether it was made (36)
       40   top of the stack
       48   way home
       56   stack_t of an alternate stack, and 80 of that which the thread had
       104  struct sigevent
       168  struct itimerspec of the functions, and 200 of rollback and settling
       232  struct kernel_sigaction of ours
       264  siginfo_t
       392  struct kernel_sigaction that were there, of each signal in `signals`
       616  sets of signals: all; all but `signals`; that of the timer
       640  struct timespec of no time
       656  address of the header, 664 its size, 672 of the switch, 680 what it becomes
       688  address of the rollback, 696 of the settling, 0 for none
       704  number of functions, and their addresses from 720 on
       708  a system call that the patcher has refused: it failed, and so has the function
       712  1 if the patcher wants to watch every system call of the functions: it is waited for */

start:
        cmp     dword ptr [rbx], 1
        jne     asleep                  /* the patcher died before it had everything in place */
        mov     qword ptr [rbx + 40], rsp
        mov     qword ptr [rbx + 48], r13
        fninit                          /* the state that the psABI (3.2.3) promises a function: */
        push    0x1f80                  /* empty x87 stack, default control words */
        ldmxcsr dword ptr [rsp]
        pop     rax
        cld
        mov     rdi, qword ptr [rbx + 656] /* mprotect(header, size, PROT_READ | PROT_WRITE) */
        mov     rsi, qword ptr [rbx + 664]
        mov     edx, 3
        mov     eax, 10
        syscall
        test    eax, eax
        js      refused
        lea     rdi, [rbx + 56]         /* sigaltstack(ours, theirs) */
        lea     rsi, [rbx + 80]
        mov     eax, 131
        syscall
        lea     r14, [rbx + 392]
        lea     r15, [rip + signals]
take:
        movzx   edi, byte ptr [r15]     /* rt_sigaction(signal, ours, theirs, 8) */
        test    edi, edi
        je      taken
        lea     rsi, [rbx + 232]
        mov     rdx, r14
        mov     r10d, 8
        mov     eax, 13
        syscall
        add     r14, 32
        inc     r15
        jmp     take
taken:
        mov     eax, 186                /* gettid() */
        syscall
        mov     dword ptr [rbx + 120], eax
        mov     edi, 1                  /* timer_create(CLOCK_MONOTONIC, event, timer) */
        lea     rsi, [rbx + 104]
        lea     rdx, [rbx + 32]
        mov     eax, 222
        syscall
        test    eax, eax
        js      refused
        mov     dword ptr [rbx + 36], 1
        lea     rdx, [rbx + 168]
        call    limit
        call    unblock
        cmp     dword ptr [rbx + 712], 0
        je      attended
        lea     rdi, [rip + no_signals] /* rt_sigtimedwait(set, NULL, timeout, 8) */
        xor     esi, esi
        lea     rdx, [rip + timeout]
        mov     r10d, 8
        mov     eax, 128
        syscall
attended:
next:
        mov     eax, dword ptr [rbx + 16]
        cmp     eax, dword ptr [rbx + 704]
        je      done
        call    qword ptr [rbx + rax * 8 + 720]
        test    eax, eax
        jne     failed
        mov     eax, dword ptr [rbx + 708]
        test    eax, eax
        jne     forbidden
        inc     dword ptr [rbx + 16]
        jmp     next

refused:
        neg     eax
        mov     qword ptr [rbx + 8], rax
        mov     dword ptr [rbx + 4], 6
        jmp     finish
forbidden:
        mov     ebp, 16
        jmp     roll_back
failed:
        movsxd  rax, eax
        mov     ebp, 2
        jmp     roll_back
given_up:                               /* jumped to by the patch (hotpatch_fail) */
        mov     ebp, 5
        xor     eax, eax
roll_back:                              /* and by the patcher: status in ebp, code in rax */
        lea     rbx, [rip + job]
        mov     qword ptr [rbx + 8], rax
        mov     dword ptr [rbx + 4], ebp
        mov     rsp, qword ptr [rbx + 40]
        cld
        fninit
        call    block                   /* until here the time may run out, and lead here again */
        mov     dword ptr [rbx + 24], 1
        call    renew
        cmp     qword ptr [rbx + 688], 0
        je      settle_failed
        call    qword ptr [rbx + 688]
settle_failed:
        mov     edi, 1
        jmp     settle

done:
        call    block
        mov     rax, qword ptr [rbx + 672]
        mov     ecx, dword ptr [rbx + 680]
        mov     dword ptr [rax], ecx    /* the commit */
        mov     dword ptr [rbx + 4], 1
        xor     edi, edi
settle:
        push    rdi
        push    rdi
        call    block
        mov     dword ptr [rbx + 24], 2
        call    renew
        pop     rdi
        pop     rdi
        cmp     qword ptr [rbx + 696], 0
        je      finish
        call    qword ptr [rbx + 696]
        jmp     finish

handler:                                /* (signal, siginfo, context), with all signals blocked */
        lea     rbx, [rip + job]
        movsxd  rax, edi
        mov     ecx, dword ptr [rsi + 8] /* si_code */
        mov     ebp, 3
        cmp     ecx, 0
        jg      ours                    /* a fault of this thread */
        mov     ebp, 4
        cmp     ecx, -2                 /* SI_TIMER */
        je      ours
        mov     ebp, 3
        mov     r8d, dword ptr [rsi + 16] /* si_pid: abort(3) sends the signal to its own thread */
        mov     eax, 39                 /* getpid() */
        syscall
        cmp     eax, r8d
        movsxd  rax, edi
        je      ours
        mov     dword ptr [rbx + 28], edi
        ret                             /* to the restorer */
ours:
        mov     ecx, dword ptr [rbx + 24]
        test    ecx, ecx
        je      roll_back
        cmp     ecx, 2
        je      leave
        mov     dword ptr [rbx + 4], 7
leave:                                  /* jumped to by the patcher, too */
        lea     rbx, [rip + job]
        mov     dword ptr [rbx + 20], 1
        mov     rsp, qword ptr [rbx + 40]

finish:
        call    block
        cmp     dword ptr [rbx + 36], 0
        je      restore
        mov     edi, dword ptr [rbx + 32] /* timer_delete(timer) */
        mov     eax, 226
        syscall
        call    drain                   /* what it has still sent would kill the program */
restore:
        lea     r14, [rbx + 392]
        lea     r15, [rip + signals]
        cmp     qword ptr [rbx + 392 + 16], -1 /* none was taken */
        je      restored
give:
        movzx   edi, byte ptr [r15]     /* rt_sigaction(signal, theirs, NULL, 8) */
        test    edi, edi
        je      given
        mov     rsi, r14
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 13
        syscall
        add     r14, 32
        inc     r15
        jmp     give
given:
        lea     rdi, [rbx + 80]         /* sigaltstack(theirs, NULL) */
        xor     esi, esi
        mov     eax, 131
        syscall
restored:
        mov     rdi, qword ptr [rbx + 656] /* mprotect(header, size, PROT_READ) */
        mov     rsi, qword ptr [rbx + 664]
        mov     edx, 1
        mov     eax, 10
        syscall
        cmp     dword ptr [rbx + 28], 0
        je      release
        mov     eax, 39                 /* kill(getpid(), signal) */
        syscall
        mov     edi, eax
        mov     esi, dword ptr [rbx + 28]
        mov     eax, 62
        syscall
release:
        mov     r13, qword ptr [rbx + 48]
        mov     dword ptr [rbx], 2
        mov     rdi, rbx                /* futex(job, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, all) */
        mov     esi, 129
        mov     edx, 0x7fffffff
        mov     eax, 202
        syscall
        jmp     cue

limit:
        cmp     dword ptr [rbx + 36], 0 /* the program's own first timer is 0 */
        je      no_limit
        mov     edi, dword ptr [rbx + 32] /* timer_settime(timer, 0, rdx, NULL) */
        xor     esi, esi
        xor     r10d, r10d
        mov     eax, 223
        syscall
no_limit:
        ret
renew:                                  /* time for another phase, with signals blocked at first */
        lea     rdx, [rbx + 200]
        call    limit
        call    drain                   /* what was sent for the phase before is not for this one */
        jmp     unblock
drain:
        lea     rdi, [rbx + 632]        /* rt_sigtimedwait(of the timer, siginfo, no time, 8) */
        lea     rsi, [rbx + 264]
        lea     rdx, [rbx + 640]
        mov     r10d, 8
        mov     eax, 128
        syscall
        test    eax, eax
        js      drained
        cmp     dword ptr [rbx + 272], -2
        je      drained
        mov     dword ptr [rbx + 28], eax
drained:
        ret
block:
        lea     rsi, [rbx + 616]
        jmp     mask
unblock:
        lea     rsi, [rbx + 624]
mask:
        mov     edi, 2                  /* rt_sigprocmask(SIG_SETMASK, rsi, NULL, 8) */
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 14
        syscall
        ret
fails:                                  /* a function that does */
        mov     eax, 1
        ret
restorer:
        mov     eax, 15                 /* rt_sigreturn() */
        syscall
signals:                                /* SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS */
        .byte   4, 5, 6, 7, 8, 11, 31, 0
