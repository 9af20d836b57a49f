/*
 * One primitive for everything that waits on a descriptor: level-triggered readiness on the event loop. The watcher
 * never owns the descriptor. It is freed when libuv has closed it, whoever lets go first: JavaScript (pollStop) or the
 * end of the environment (a worker thread that stops).
 */
#include "addon.h"

#include <errno.h>
#include <stdlib.h>
#include <uv.h>

typedef struct {
  uv_poll_t handle;
  napi_env env;
  napi_ref callback;
  napi_async_cleanup_hook_handle hook;
  bool closing;
} Watcher;

/* The last step: from here on nobody holds the watcher. */
static void on_closed(uv_handle_t *handle) {
  Watcher *watcher = handle->data;
  napi_remove_async_cleanup_hook(watcher->hook);
  free(watcher);
}

static void begin_close(Watcher *watcher) {
  if (watcher->closing) return;
  watcher->closing = true;
  napi_delete_reference(watcher->env, watcher->callback);
  uv_close((uv_handle_t *)&watcher->handle, on_closed);
}

static void on_environment_end(napi_async_cleanup_hook_handle hook, void *data) {
  (void)hook;
  begin_close(data);
}

static void on_ready(uv_poll_t *handle, int status, int events) {
  (void)status;
  (void)events;
  Watcher *watcher = handle->data;
  napi_handle_scope scope;
  napi_value callback, receiver, error;
  if (napi_open_handle_scope(watcher->env, &scope) != napi_ok) return;
  if (napi_get_reference_value(watcher->env, watcher->callback, &callback) == napi_ok &&
      napi_get_global(watcher->env, &receiver) == napi_ok &&
      napi_make_callback(watcher->env, NULL, receiver, callback, 0, NULL, NULL) == napi_pending_exception &&
      napi_get_and_clear_last_exception(watcher->env, &error) == napi_ok)
    napi_fatal_exception(watcher->env, error);
  napi_close_handle_scope(watcher->env, scope);
}

static Watcher *create(napi_env env, int fd, int events, napi_value callback) {
  uv_loop_t *loop;
  Watcher *watcher = calloc(1, sizeof *watcher);
  if (watcher == NULL || napi_get_uv_event_loop(env, &loop) != napi_ok) {
    free(watcher);
    errno = ENOMEM;
    return NULL;
  }
  int error = uv_poll_init(loop, &watcher->handle, fd);
  if (error != 0) {
    free(watcher);
    errno = -error;
    return NULL;
  }
  watcher->handle.data = watcher;
  watcher->env = env;
  napi_create_reference(env, callback, 1, &watcher->callback);
  napi_add_async_cleanup_hook(env, on_environment_end, watcher, &watcher->hook);
  uv_poll_start(&watcher->handle, events, on_ready);
  return watcher;
}

/* (fd, 'r' is 1 | 'w' is 2, callback) → watcher. An error on the descriptor counts as ready: the next call tells which. */
napi_value poll_start(napi_env env, napi_callback_info info) {
  napi_value args[3], external;
  int32_t fd, events;
  if (!read_args(env, info, 3, args) || !read_int(env, args[0], &fd) || !read_int(env, args[1], &events)) return NULL;
  Watcher *watcher = create(env, fd, events, args[2]);
  if (watcher == NULL) return throw_errno(env, "epoll_ctl");
  return napi_create_external(env, watcher, NULL, NULL, &external) == napi_ok ? external : NULL;
}

/* (watcher) → undefined. Once only; the callback does not run again. */
napi_value poll_stop(napi_env env, napi_callback_info info) {
  napi_value args[1];
  void *watcher;
  if (!read_args(env, info, 1, args)) return NULL;
  if (napi_get_value_external(env, args[0], &watcher) == napi_ok) begin_close(watcher);
  else napi_throw_type_error(env, NULL, "expected a watcher");
  return NULL;
}
