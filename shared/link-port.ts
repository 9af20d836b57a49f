/**
 * The host's vsock port that a guest's agent dials, for the link to its sandboxer.
 *
 * Far above what connections of the host's are counted up to. vhost-device-vsock 0.3.0 gives each of them the next number
 * from 0 as its port, and once that number is one a guest has dialled and holds, it makes no connection any more, for
 * good: at 1025 that was after some 510 execs of a pod. Source: allocate_local_port in its vhu_vsock_thread.rs, mended after 0.3.0.
 * Nine digits, for the path of the socket that stands for it has 107 bytes at most.
 */
export const LINK_PORT = 999_999_999
