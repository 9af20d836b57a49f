/** The helpers' names: of their processes in the ledger, their logs and in messages. */

/** Serves the share for the volumes in it. */
export const VIRTIOFSD = 'virtiofsd'
/** Serves the same share for the roots in it, which only the guest writes. */
export const VIRTIOFSD_ROOTS = 'virtiofsd-roots'
export const VHOST_VSOCK = 'vhost-device-vsock'
