/* Tries what no container may, without a C library, so that it builds for 32 bits too; prints `name errno` a line. */

#include <asm/unistd.h>
#include <linux/errno.h>

typedef unsigned long word;

static long call(word number, word a, word b, word c, word d, word e)
{
	long result;
#ifdef __x86_64__
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	register word r9 __asm__("r9") = 0;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
#else
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
#endif
	return result;
}

static void print(const char *name, long result)
{
	char line[80];
	unsigned at = 0;
	unsigned error = result < 0 ? (unsigned)-result : 0;
	while (*name)
		line[at++] = *name++;
	line[at++] = ' ';
	line[at++] = '0' + error / 100 % 10;
	line[at++] = '0' + error / 10 % 10;
	line[at++] = '0' + error % 10;
	line[at++] = '\n';
	call(__NR_write, 1, (word)line, at, 0, 0);
}

#define NOWHERE ((word)-1)
#define TRY(name, a, b, c, d, e) print(#name, call(__NR_##name, a, b, c, d, e))

/* Harmless wherever one of them is let through: their arguments are nonsense. */
void _start(void)
{
	long child;
	TRY(getpid, 0, 0, 0, 0, 0);
	TRY(keyctl, 0, 0, 0, 0, 0);
	TRY(add_key, 0, 0, 0, 0, 0);
	TRY(request_key, 0, 0, 0, 0, 0);
	TRY(io_uring_setup, 0, 0, 0, 0, 0);
	TRY(io_uring_enter, NOWHERE, 0, 0, 0, 0);
	TRY(io_uring_register, NOWHERE, 0, 0, 0, 0);
	TRY(userfaultfd, 0xffff, 0, 0, 0, 0);
	TRY(bpf, 0, 0, 0, 0, 0);
	TRY(perf_event_open, 0, 0, 0, NOWHERE, 0);
	TRY(kexec_load, 0, 0, 0, 0, 0);
	TRY(reboot, 0, 0, 0, 0, 0);
	TRY(init_module, 0, 0, 0, 0, 0);
	TRY(finit_module, NOWHERE, 0, 0, 0, 0);
	TRY(delete_module, 0, 0, 0, 0, 0);
	TRY(mount, 0, 0, 0, 0, 0);
	TRY(umount2, 0, 0, 0, 0, 0);
	TRY(pivot_root, 0, 0, 0, 0, 0);
	TRY(open_tree, NOWHERE, 0, 0, 0, 0);
	TRY(move_mount, NOWHERE, 0, NOWHERE, 0, 0);
	TRY(fsopen, 0, 0, 0, 0, 0);
	TRY(fsmount, NOWHERE, 0, 0, 0, 0);
	TRY(mount_setattr, NOWHERE, 0, 0, 0, 0);
	TRY(setns, NOWHERE, 0, 0, 0, 0);
	TRY(open_by_handle_at, NOWHERE, 0, 0, 0, 0);
	TRY(swapon, 0, 0, 0, 0, 0);
	TRY(syslog, 99, 0, 0, 0, 0);
	TRY(quotactl, 0, 0, 0, 0, 0);
	TRY(acct, 0, 0, 0, 0, 0);
	TRY(iopl, 99, 0, 0, 0, 0);
	TRY(clone3, 0, 0, 0, 0, 0);
	TRY(personality, 0x0040000, 0, 0, 0, 0);
	/* With and without what the kernel does not look at above 32 bits. */
	child = call(__NR_clone, 0x10000000 | 17, 0, 0, 0, 0);
	if (child == 0)
		call(__NR_exit_group, 0, 0, 0, 0, 0);
	print("clone_newuser", child);
#ifdef __x86_64__
	child = call(__NR_clone, 0x110000000 | 17, 0, 0, 0, 0);
	if (child == 0)
		call(__NR_exit_group, 0, 0, 0, 0, 0);
	print("clone_newuser_high", child);
	print("ptrace_other", call(__NR_ptrace, 16, 99999999, 0, 0, 0));
	TRY(kexec_file_load, NOWHERE, NOWHERE, 0, 0, 0);
	TRY(socket, 38, 5, 0, 0, 0);
#endif
	/* Last: it takes every right away. */
	TRY(unshare, 0x10000000, 0, 0, 0, 0);
	call(__NR_exit_group, 0, 0, 0, 0, 0);
}
