/* Who a set-user-id program or one with file capabilities makes its caller: uid, euid, effective capabilities. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    printf("uid %d euid %d ", (int)getuid(), (int)geteuid());
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, "CapEff", 6) == 0)
            printf("%s", line + 8);
    return 0;
}
