/** Errors between gRPC's form and ours. */
import type { ServiceError } from '@grpc/grpc-js'
import { asRuntimeError, explain, RuntimeError, statusCodes, statusName } from '../errors.ts'

/**
 * Characters of an error's text on the wire. It travels in an HTTP/2 header, percent-encoded; a start's error carries
 * the last lines of a console.
 */
export const detailsLengthMax = 8192

/** What a server answers for anything thrown. The text is well-formed: grpc-js's encodeURI throws on half a surrogate. */
export function toGrpcStatus(thrown: unknown): { readonly code: number; readonly details: string } {
  const error = asRuntimeError(thrown)
  return { code: statusCodes[error.code], details: explain(error).slice(0, detailsLengthMax).toWellFormed() }
}

/** What a client throws for a failed call; `call` names it ("containerd.services.tasks.v1.Tasks/Get"). */
export function fromGrpcError(error: Pick<ServiceError, 'code' | 'details'>, call: string): RuntimeError {
  return new RuntimeError(statusName(error.code), `${call}: ${error.details}`, { cause: error })
}
