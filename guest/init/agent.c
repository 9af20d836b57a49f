/* Which program is the agent, and how it is started. */
#include "init.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define NODE "/usr/bin/node"
#define SNAPSHOT "/usr/lib/kuasar/agent.blob"
#define BUNDLE "/usr/lib/kuasar/agent.cjs"

/* A guest has few CPUs: one thread for V8's own work, none for a debugger. The interpreter, and V8's last compiler for
 * what is run very often (20000 calls in place of 3000). The quick ones before it, Sparkplug and Maglev, cost a start and
 * the first hundred execs more than they give: emulated, every new piece of machine code is also translated. */
#define NODE_OPTIONS "--v8-pool-size=1", "--no-sparkplug", "--no-maglev", "--invocation-count-for-turbofan=20000", "--disable-sigusr1"

static char *const from_snapshot[] = {NODE, SNAPSHOT_OPTION, SNAPSHOT, NODE_OPTIONS, NULL};
static char *const from_bundle[] = {NODE, NODE_OPTIONS, BUNDLE, NULL};

_Noreturn void run_agent(const struct options *options) {
  if (options->agent[0] != '\0') {
    char *const program[] = {(char *)options->agent, NULL};
    supervise(program, options);
  }
  if (access(SNAPSHOT, R_OK) == 0) supervise(from_snapshot, options);
  say("there is no start-up snapshot at %s; the agent starts from %s, which takes longer", SNAPSHOT, BUNDLE);
  run_bundle(options);
}

_Noreturn void run_bundle(const struct options *options) { supervise(from_bundle, options); }
