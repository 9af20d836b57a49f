/** Where metrics are served. */
import { z } from 'zod'

export type MetricsAddress =
  | { readonly kind: 'unix'; readonly path: string; readonly text: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly text: string }

/** Of a unix socket's path: sun_path has 108 bytes with its NUL. Source: unix(7). */
const PATH_BYTES_MAX = 107
const PORT_MAX = 65_535

/** Undefined for what is no address. */
export function parseMetricsAddress(text: string): MetricsAddress | undefined {
  if (text.startsWith('/')) return text.includes('\0') || Buffer.byteLength(text) > PATH_BYTES_MAX ? undefined : { kind: 'unix', path: text, text }
  const [, bracketed, plain, digits = ''] = /^(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9.-]+)):(\d{1,5})$/.exec(text) ?? []
  const [host, port] = [bracketed ?? plain, Number(digits)]
  if (host === undefined || port < 1 || port > PORT_MAX) return undefined
  return { kind: 'tcp', host, port, text }
}

export const metrics = z.strictObject({
  /** Empty: nowhere */
  address: z
    .string()
    .refine((text) => text === '' || parseMetricsAddress(text) !== undefined, 'host:port, [address]:port, an absolute path of a unix socket (at most 107 bytes), or "" for nowhere')
    .default(''),
})
