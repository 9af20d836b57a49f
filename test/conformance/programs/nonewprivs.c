/* What critest runs setuid to see whether no_new_privs holds: it says who it is in effect. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %d\n", (int)geteuid());
  return 0;
}
