/* Print the first bytes of each file that can be read: a cat that a root filesystem needs nothing else for. */
#include <fcntl.h>
#include <unistd.h>

int main(int count, char **paths) {
    char text[4096];
    for (int index = 1; index < count; index++) {
        int file = open(paths[index], O_RDONLY | O_NONBLOCK);
        if (file < 0)
            continue;
        ssize_t length = read(file, text, sizeof text);
        if (length > 0 && write(1, text, (size_t)length) < 0)
            return 1;
        close(file);
    }
    return 0;
}
