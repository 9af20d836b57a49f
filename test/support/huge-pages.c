/*
 * Maps huge pages, writes to each, reads them back, says "held", and keeps them until it is killed:
 *
 *   huge-pages BYTES           anonymous (MAP_HUGETLB)
 *   huge-pages BYTES FILE      of a hugetlbfs; one that is there already keeps what it holds, and says "found"
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Far below a huge page, so that each of its small pages is written to. */
#define STEP_BYTES 4096

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t mark_of(size_t at) { return 0x9e3779b97f4a7c15u * (at + 1); }

int main(int argc, char **argv) {
  size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
  if (bytes == 0) die("usage: huge-pages BYTES [FILE]");
  int fd = argc > 2 ? open(argv[2], O_RDWR | O_CREAT, 0600) : -1;
  if (argc > 2 && (fd < 0 || ftruncate(fd, bytes) != 0)) die(argv[2]);
  volatile char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB : MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) die("mmap");
  const char *said = "held";
  if (*(volatile uint64_t *)memory == mark_of(0)) said = "found";
  else
    for (size_t at = 0; at < bytes; at += STEP_BYTES) *(volatile uint64_t *)(memory + at) = mark_of(at);
  for (size_t at = 0; at < bytes; at += STEP_BYTES)
    if (*(volatile uint64_t *)(memory + at) != mark_of(at)) die("what was written is not there");
  puts(said);
  fflush(stdout);
  pause();
  return 0;
}
