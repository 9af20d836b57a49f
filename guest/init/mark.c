/* Boot marks: "name:nanoseconds,…" of CLOCK_BOOTTIME, in the order they were reached. */
#include "init.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static char text[MARKS_BYTES_MAX];
static size_t used;

uint64_t clock_nanos(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void mark(const char *name) {
  const char *comma = used == 0 ? "" : ",";
  int length = snprintf(text + used, sizeof text - used, "%s%s:%" PRIu64, comma, name, clock_nanos(CLOCK_BOOTTIME));
  if (length > 0 && used + (size_t)length < sizeof text) used += (size_t)length;
  else text[used] = '\0';
}

const char *marks(void) { return text; }
