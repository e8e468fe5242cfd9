/* Fork from every process there is, up to a number of them: bomb MOST. Then stay. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words) {
    int most = count > 1 ? atoi(words[1]) : 64, told = 0;
    int *born = mmap(NULL, sizeof *born, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    setsid();
    for (;;) {
        if (__atomic_add_fetch(born, 1, __ATOMIC_SEQ_CST) > most) {
            if (!told++)
                dprintf(1, "most\n");
            for (;;)
                pause();
        }
        if (fork() < 0) {
            __atomic_sub_fetch(born, 1, __ATOMIC_SEQ_CST);
            if (errno == EAGAIN && !told++)
                dprintf(1, "limit\n");
            usleep(1000); /* a spinning one would only take the tests' own processors */
        }
    }
}
