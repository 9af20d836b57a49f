/*
 * What two processes have of one directory that no byte in a file shows. Each command prints one word.
 *
 *   serve PATH      answers one connection to a unix socket at PATH
 *   ask PATH        what is answered there
 *   lock PATH       takes the file's lock (flock(2)) and sleeps
 *   try PATH        "locked" or "free"
 *   watch PATH      "told", when something new has come into the directory (inotify(7))
 *   hold PATH WORD  maps the file, writes the word into the memory, and sleeps
 *   look PATH       the word in the file's memory
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WORD_BYTES 16

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path, path, sizeof address->sun_path - 1);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int serve(const char *path)
{
    struct sockaddr_un address;
    int listener = unix_socket(path, &address);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0) return fail("listen");
    int connection = accept(listener, NULL, NULL);
    if (connection < 0 || write(connection, "answered", 8) != 8) return fail("serve");
    return 0;
}

static int ask(const char *path)
{
    struct sockaddr_un address;
    char word[WORD_BYTES + 1] = {0};
    int connection = unix_socket(path, &address);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0) return fail("connect");
    if (read(connection, word, WORD_BYTES) <= 0) return fail("read");
    return puts(word) < 0;
}

static int lock(const char *path, int sleeps)
{
    int file = open(path, O_RDWR | O_CREAT, 0644);
    if (file < 0) return fail("open");
    int locked = flock(file, LOCK_EX | LOCK_NB);
    if (locked == 0 && sleeps) pause();
    return puts(locked == 0 ? "free" : "locked") < 0;
}

static int watch(const char *path)
{
    char event[sizeof(struct inotify_event) + NAME_MAX + 1];
    int queue = inotify_init();
    if (queue < 0 || inotify_add_watch(queue, path, IN_CREATE) < 0) return fail("watch");
    if (read(queue, event, sizeof event) <= 0) return fail("read");
    return puts("told") < 0;
}

static char *map(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT, 0644);
    if (file < 0 || ftruncate(file, 4096) != 0) return NULL;
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

int main(int count, char **words)
{
    if (count == 3 && strcmp(words[1], "serve") == 0) return serve(words[2]);
    if (count == 3 && strcmp(words[1], "ask") == 0) return ask(words[2]);
    if (count == 3 && strcmp(words[1], "lock") == 0) return lock(words[2], 1);
    if (count == 3 && strcmp(words[1], "try") == 0) return lock(words[2], 0);
    if (count == 3 && strcmp(words[1], "watch") == 0) return watch(words[2]);
    char *memory = count >= 3 ? map(words[2]) : NULL;
    if (memory == NULL) return fail("map");
    if (count == 4 && strcmp(words[1], "hold") == 0) {
        strncpy(memory, words[3], WORD_BYTES);
        pause();
    }
    memory[WORD_BYTES] = 0;
    return puts(memory) < 0;
}
