/// <reference types="node" preserve="true" />
/** ttrpc for Node.js: client and server. Everything else in this folder is how. */
export { RuntimeError, type ErrorDetail, type StatusName } from '../errors.ts'
export { TtrpcClient } from './client.ts'
export { ServedService, TtrpcServer } from './server.ts'
export { serviceOf } from './service.ts'
export { defaultLimits, type Limits } from './limits.ts'
export { TimeShare } from './time-share.ts'
export type { CallReport, ConnectionOptions, ServerOptions } from './options.ts'
export type {
  CallContext,
  CallKind,
  CallOptions,
  Calls,
  Handlers,
  Metadata,
  MethodDefinition,
  MethodTypes,
  Service,
  ServiceTypes,
} from './method.ts'
