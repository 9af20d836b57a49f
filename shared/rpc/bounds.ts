/** Limits on what is decoded from a peer that is not trusted. */
import { RuntimeError } from '../errors.ts'
import type { MethodDefinition, Service, ServiceTypes } from '../ttrpc/method.ts'

export interface Bounds {
  /** Bytes of one encoded request. */
  readonly requestBytesMax?: number
  /** Bytes of one encoded response. */
  readonly responseBytesMax?: number
}

/**
 * Bytes of a message from a guest. Two bytes on the wire make an empty element, some hundred in memory: a frame of
 * 4 MiB (ttrpc's limit) decodes to 2 million objects, 0.6 s and 350 MB; this many take 60 ms and 25 MB. The largest
 * honest message is a batch of log records.
 */
export const guestMessageBytesMax = 256 * 1024

/**
 * The same service, which refuses to decode larger messages: RESOURCE_EXHAUSTED. Serve `boundService(rpc.host, {
 * requestBytesMax: guestMessageBytesMax })` and call `boundService(rpc.agent, { responseBytesMax: … })`.
 */
export function boundService<T extends ServiceTypes>(service: Service<T>, bounds: Bounds): Service<T>
export function boundService(service: Service<ServiceTypes>, bounds: Bounds): Service<ServiceTypes> {
  const methods = Object.entries(service.methods).map(([name, method]) => [name, boundMethod(method, bounds)])
  return { name: service.name, methods: Object.fromEntries(methods) }
}

type Method = MethodDefinition<unknown, unknown>

function boundMethod(method: Method, { requestBytesMax, responseBytesMax }: Bounds): Method {
  return {
    ...method,
    requestDeserialize: bound(method.requestDeserialize, requestBytesMax, `${method.path} request`),
    responseDeserialize: bound(method.responseDeserialize, responseBytesMax, `${method.path} response`),
  }
}

function bound(decode: (bytes: Buffer) => unknown, bytesMax: number | undefined, what: string): (bytes: Buffer) => unknown {
  if (bytesMax === undefined) return decode
  return (bytes) => {
    if (bytes.length <= bytesMax) return decode(bytes)
    throw new RuntimeError('RESOURCE_EXHAUSTED', `${what} of ${bytes.length} bytes: ${bytesMax} is the limit`)
  }
}
