/*
 * one-file DIRECTORY: a file system in user space with one file, "word", which says "served"; until a signal ends it.
 * Source: linux/fuse.h, fuse(4).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORD "served\n"
#define FILE_NODE 2
#define REQUEST_BYTES_MAX (FUSE_MIN_READ_BUFFER + 4096)

static int device;

static void answer(const struct fuse_in_header *in, int error, const void *data, size_t size)
{
    char reply[sizeof(struct fuse_out_header) + 256];
    struct fuse_out_header out = {.len = sizeof out + size, .error = -error, .unique = in->unique};
    memcpy(reply, &out, sizeof out);
    if (size > 0) memcpy(reply + sizeof out, data, size);
    if (write(device, reply, out.len) < 0 && errno != ENOENT) perror("answer");
}

static struct fuse_attr attributes(uint64_t node)
{
    struct fuse_attr file = {.ino = FILE_NODE, .size = sizeof WORD - 1, .mode = S_IFREG | 0644, .nlink = 1};
    struct fuse_attr top = {.ino = FUSE_ROOT_ID, .mode = S_IFDIR | 0755, .nlink = 2};
    return node == FILE_NODE ? file : top;
}

static void handle(const struct fuse_in_header *in, const char *body)
{
    struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
    struct fuse_entry_out entry = {.nodeid = FILE_NODE, .attr = attributes(FILE_NODE)};
    struct fuse_attr_out attr = {.attr = attributes(in->nodeid)};
    struct fuse_open_out open = {0};
    struct fuse_statfs_out statfs = {0};
    switch (in->opcode) {
    case FUSE_INIT: return answer(in, 0, &init, sizeof init);
    case FUSE_GETATTR: return answer(in, 0, &attr, sizeof attr);
    case FUSE_LOOKUP: return strcmp(body, "word") == 0 ? answer(in, 0, &entry, sizeof entry) : answer(in, ENOENT, NULL, 0);
    case FUSE_OPEN: return answer(in, 0, &open, sizeof open);
    case FUSE_READ: {
        uint64_t offset = ((const struct fuse_read_in *)body)->offset;
        return offset == 0 ? answer(in, 0, WORD, sizeof WORD - 1) : answer(in, 0, NULL, 0);
    }
    case FUSE_STATFS: return answer(in, 0, &statfs, sizeof statfs);
    case FUSE_RELEASE: return answer(in, 0, NULL, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET: return;
    default: return answer(in, ENOSYS, NULL, 0);
    }
}

int main(int count, char **words)
{
    static char request[REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    char options[128];
    device = open("/dev/fuse", O_RDWR);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (count != 2 || device < 0 || mount("one-file", words[1], "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
        perror("one-file");
        return 1;
    }
    for (;;) {
        ssize_t length = read(device, request, sizeof request);
        if (length < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT) return 0;
        if (length >= (ssize_t)sizeof(struct fuse_in_header))
            handle((const struct fuse_in_header *)request, request + sizeof(struct fuse_in_header));
    }
}
