/* Exchange two names for as long as it is let: swap DIRECTORY NAME NAME. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 4 || chdir(words[1]) != 0)
        return 2;
    for (;;)
        if (syscall(SYS_renameat2, AT_FDCWD, words[2], AT_FDCWD, words[3], 2 /* RENAME_EXCHANGE */) != 0) {
            perror("renameat2");
            return 1;
        }
}
