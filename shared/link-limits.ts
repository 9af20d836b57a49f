/** What a guest may say to its sandboxer at once: the guest keeps to it, and the host refuses or cuts what is beyond. */

/** Largest message of a guest's, request or answer, in bytes: the list of a thousand tasks is 100 KiB. */
export const GUEST_MESSAGE_BYTES_MAX = 256 * 1024

/**
 * Elements of such a message's lists. An empty element is two bytes and some 140 when decoded: 4 MiB of them took the
 * sandboxer 600 ms and 290 MiB.
 */
export const GUEST_MESSAGE_FIELDS_MAX = 2048

/**
 * Share of a processor that what a guest sends may take on either link, over however many connections one after the other, and on
 * all its forwards together: bulk through a forward takes half as much at 376 MiB/s.
 */
export const GUEST_READ_SHARE_MAX = 0.2

/** Of a log record's message, and of its fields as JSON, in UTF-16 units; the rest is cut off. */
export const LOG_MESSAGE_LENGTH_MAX = 2048
export const LOG_FIELDS_LENGTH_MAX = 4096
