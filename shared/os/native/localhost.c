/*
 * Every TCP connection to the loopback addresses of a network namespace, on one listening socket, whatever its port.
 *
 * A BPF program of type sk_lookup (Documentation/bpf/prog_sk_lookup.rst, Linux 5.9) is asked who listens whenever a
 * connection comes in, and names our socket for 127.0.0.0/8 and ::1. An accepted socket's own port is the one that was
 * dialled. All of it hangs on two descriptors: when they are closed, by whatever end of the process, nothing is left.
 */
#include "addon.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

/* The kernel caps it at net.core.somaxconn. */
#define BACKLOG 1024

/* A step that failed leaves the name of its call here, and its errno. */
typedef struct {
  int netns;
  int listener;
  const char *syscall;
  int error;
} Listening;

static bool failed(Listening *at, const char *syscall) {
  at->error = errno;
  at->syscall = syscall;
  return false;
}

/*
 * Bound to 127.0.0.1, so that nobody reaches it any other way than by the program's word. A socket of IPv6 bound to that
 * address as a mapped one takes connections of both families; bound to ::1 it would take no others.
 */
static int loopback_socket(int family) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_addr = {{{[10] = 0xff, 0xff, 127, 0, 0, 1}}}};
  int off = 0;
  bool bound = family == AF_INET ? bind(fd, (struct sockaddr *)&v4, sizeof v4) == 0
                                 : setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
                                       bind(fd, (struct sockaddr *)&mapped, sizeof mapped) == 0;
  if (bound && listen(fd, BACKLOG) == 0) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* On a thread of its own, which ends in the other namespace: no thread of Node's ever leaves its own. */
static void *listen_inside(void *data) {
  Listening *at = data;
  if (setns(at->netns, CLONE_NEWNET) != 0) {
    failed(at, "setns");
    return NULL;
  }
  at->listener = loopback_socket(AF_INET6);
  /* A kernel may be without IPv6. */
  if (at->listener < 0) at->listener = loopback_socket(AF_INET);
  if (at->listener < 0) failed(at, "listen");
  return NULL;
}

static bool open_listener(Listening *at) {
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  errno = pthread_create(&thread, NULL, listen_inside, at);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = error;
  if (error != 0) return failed(at, "pthread_create");
  pthread_join(thread, NULL);
  return at->syscall == NULL;
}

static int bpf(int command, union bpf_attr *attributes) { return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes); }

/* A map of one socket, which is how a program names one. It forgets the socket when that is closed. */
static int socket_map(int socket_fd) {
  uint32_t key = 0;
  uint64_t value = (uint64_t)socket_fd;
  union bpf_attr create = {.map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = sizeof key, .value_size = sizeof value, .max_entries = 1};
  int map = bpf(BPF_MAP_CREATE, &create);
  if (map < 0) return -1;
  union bpf_attr update = {.map_fd = (uint32_t)map, .key = (uintptr_t)&key, .value = (uintptr_t)&value};
  if (bpf(BPF_MAP_UPDATE_ELEM, &update) == 0) return map;
  int error = errno;
  close(map);
  errno = error;
  return -1;
}

#define LOAD(register, field) \
  {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = register, .src_reg = BPF_REG_6, .off = offsetof(struct bpf_sk_lookup, field)}
#define MOVE(to, from) {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = to, .src_reg = from}
#define SET(register, value) {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = register, .imm = value}
#define OR(register, other) {.code = BPF_ALU | BPF_OR | BPF_X, .dst_reg = register, .src_reg = other}
#define CALL(function) {.code = BPF_JMP | BPF_CALL, .imm = function}
/* From instruction `at` to `to`: an offset counts from the one that follows. */
#define JUMP_IF(at, register, comparison, value, to) \
  {.code = BPF_JMP | comparison | BPF_K, .dst_reg = register, .imm = (int32_t)(value), .off = (to) - (at) - 1}

/* Names the map's socket for TCP to a loopback address; what it does not name is looked up as ever. */
static int lookup_program(int map) {
  enum { V6 = 9, OURS = 17, PASS = 31 };
  const struct bpf_insn program[] = {
      [0] = MOVE(BPF_REG_6, BPF_REG_1),
      [1] = LOAD(BPF_REG_0, protocol),
      [2] = JUMP_IF(2, BPF_REG_0, BPF_JNE, IPPROTO_TCP, PASS),
      [3] = LOAD(BPF_REG_0, family),
      [4] = JUMP_IF(4, BPF_REG_0, BPF_JNE, AF_INET, V6),
      [5] = LOAD(BPF_REG_0, local_ip4),
      [6] = {.code = BPF_ALU | BPF_AND | BPF_K, .dst_reg = BPF_REG_0, .imm = (int32_t)htonl(0xff000000)},
      [7] = JUMP_IF(7, BPF_REG_0, BPF_JEQ, htonl(0x7f000000), OURS),
      [8] = {.code = BPF_JMP | BPF_JA, .off = PASS - 8 - 1},
      [V6] = LOAD(BPF_REG_0, local_ip6[0]),
      [10] = LOAD(BPF_REG_2, local_ip6[1]),
      [11] = OR(BPF_REG_0, BPF_REG_2),
      [12] = LOAD(BPF_REG_2, local_ip6[2]),
      [13] = OR(BPF_REG_0, BPF_REG_2),
      [14] = JUMP_IF(14, BPF_REG_0, BPF_JNE, 0, PASS),
      [15] = LOAD(BPF_REG_0, local_ip6[3]),
      [16] = JUMP_IF(16, BPF_REG_0, BPF_JNE, htonl(1), PASS),
      [OURS] = {.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = BPF_REG_10, .off = -4, .imm = 0},
      [18] = {.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = BPF_REG_1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
      [19] = {0},
      [20] = MOVE(BPF_REG_2, BPF_REG_10),
      [21] = {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_2, .imm = -4},
      [22] = CALL(BPF_FUNC_map_lookup_elem),
      [23] = JUMP_IF(23, BPF_REG_0, BPF_JEQ, 0, PASS),
      [24] = MOVE(BPF_REG_7, BPF_REG_0),
      [25] = MOVE(BPF_REG_1, BPF_REG_6),
      [26] = MOVE(BPF_REG_2, BPF_REG_7),
      [27] = SET(BPF_REG_3, 0),
      [28] = CALL(BPF_FUNC_sk_assign),
      [29] = MOVE(BPF_REG_1, BPF_REG_7),
      [30] = CALL(BPF_FUNC_sk_release),
      [PASS] = SET(BPF_REG_0, SK_PASS),
      [32] = {.code = BPF_JMP | BPF_EXIT},
  };
  union bpf_attr load = {
      .prog_type = BPF_PROG_TYPE_SK_LOOKUP,
      .expected_attach_type = BPF_SK_LOOKUP,
      .insns = (uintptr_t)program,
      .insn_cnt = sizeof program / sizeof *program,
      .license = (uintptr_t) "Apache-2.0",
  };
  return bpf(BPF_PROG_LOAD, &load);
}

/* The program's attachment to a network namespace: a descriptor, which keeps the program, which keeps the map. */
static int attach(int netns, int listener, Listening *at) {
  int map = socket_map(listener);
  if (map < 0) return failed(at, "bpf map"), -1;
  int program = lookup_program(map);
  if (program < 0) failed(at, "bpf program");
  close(map);
  if (program < 0) return -1;
  union bpf_attr create = {.link_create = {.prog_fd = (uint32_t)program, .target_fd = (uint32_t)netns, .attach_type = BPF_SK_LOOKUP}};
  int link = bpf(BPF_LINK_CREATE, &create);
  if (link < 0) failed(at, "bpf link");
  close(program);
  return link;
}

/* (path of a network namespace) → [listening fd, attachment fd]. Needs CAP_SYS_ADMIN. */
napi_value localhost_listen(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  String path;
  if (!read_args(env, info, 1, args) || !read_string(env, args[0], path)) return NULL;
  Listening at = {.netns = open(path, O_RDONLY | O_CLOEXEC), .listener = -1};
  if (at.netns < 0) return throw_errno(env, "open");
  int link = open_listener(&at) ? attach(at.netns, at.listener, &at) : -1;
  close(at.netns);
  if (link < 0) {
    if (at.listener >= 0) close(at.listener);
    errno = at.error;
    return throw_errno(env, at.syscall);
  }
  if (napi_create_array_with_length(env, 2, &result) != napi_ok) return NULL;
  napi_set_element(env, result, 0, make_int(env, at.listener));
  napi_set_element(env, result, 1, make_int(env, link));
  return result;
}
