/**
 * The envelopes around requests and responses, in protobuf:
 *
 *     Request   1 service string, 2 method string, 3 payload bytes, 4 timeout_nano int64, 5 metadata KeyValue…
 *     KeyValue  1 key string, 2 value string
 *     Response  1 status google.rpc.Status, 2 payload bytes
 *     Status    1 code int32, 2 message string, 3 details google.protobuf.Any…
 *     Any       1 type_url string, 2 value bytes
 *
 * Written by hand because they surround every call: a request is encoded straight into the connection's output, with
 * service and method encoded once per method.
 */
import type { ErrorDetail } from '../errors.ts'
import { noBytes } from './frame.ts'
import type { Metadata } from './method.ts'
import { DecodeError, fieldSize, Reader, varintSize, wireType, writeField, writeVarint } from './protobuf.ts'

const tag = (field: number, type: number): number => (field << 3) | type

/** A decoded request. The payload is a range of the decoded bytes; absent, it is empty. */
export interface RequestEnvelope {
  service: string
  method: string
  payloadStart: number
  payloadEnd: number
  /** 0 means none; a peer may send a negative one, which has expired. */
  timeoutNano: number
  metadata: Metadata
}

/** A decoded status; code 0 is OK. */
export interface Status {
  code: number
  message: string
  details: ErrorDetail[]
}

/** A decoded response. `payloadStart` is -1 when there is no payload field. */
export interface ResponseEnvelope {
  status: Status | undefined
  payloadStart: number
  payloadEnd: number
}

type Pairs = Record<string, string[]>

/** Keys come from the peer, so the object has no prototype. */
function newPairs(): Pairs {
  const pairs: Pairs = {}
  Object.setPrototypeOf(pairs, null)
  return pairs
}

/** No metadata. */
export const noMetadata: Metadata = Object.freeze(newPairs())

// Sending

/** Fields 1 and 2 of every request to one method. */
export function encodeMethod(service: string, method: string): Buffer {
  const names = [Buffer.from(service), Buffer.from(method)] as const
  const bytes = Buffer.alloc(fieldSize(names[0].length) + fieldSize(names[1].length))
  writeField(bytes, writeField(bytes, 0, 1, names[0]), 2, names[1])
  return bytes
}

/** Field 5 of a request, once per pair. Keys are lower-cased, as Go's lookups expect them. */
export function encodeMetadata(metadata: Metadata | undefined): Buffer {
  if (metadata === undefined) return noBytes
  const pairs: Buffer[] = []
  for (const [key, values] of Object.entries(metadata)) {
    const keyBytes = Buffer.from(key.toLowerCase())
    for (const value of values) {
      const valueBytes = Buffer.from(value)
      const size = fieldSize(keyBytes.length) + fieldSize(valueBytes.length)
      const pair = Buffer.alloc(fieldSize(size))
      pair[0] = tag(5, wireType.bytes)
      const at = writeVarint(pair, 1, size)
      writeField(pair, writeField(pair, at, 1, keyBytes), 2, valueBytes)
      pairs.push(pair)
    }
  }
  return pairs.length === 0 ? noBytes : Buffer.concat(pairs)
}

/** Bytes of an encoded request. */
export function requestSize(method: Buffer, payload: Uint8Array, timeoutNano: number, metadata: Buffer): number {
  const payloadSize = payload.length === 0 ? 0 : fieldSize(payload.length)
  const timeoutSize = timeoutNano === 0 ? 0 : 1 + varintSize(timeoutNano)
  return method.length + payloadSize + timeoutSize + metadata.length
}

/** Writes a request of `requestSize` bytes; `timeoutNano` is a whole number, not negative. */
export function writeRequest(
  into: Buffer,
  start: number,
  method: Buffer,
  payload: Uint8Array,
  timeoutNano: number,
  metadata: Buffer,
): void {
  into.set(method, start)
  let at = start + method.length
  if (payload.length > 0) at = writeField(into, at, 3, payload)
  if (timeoutNano !== 0) {
    into[at] = tag(4, wireType.varint)
    at = writeVarint(into, at + 1, timeoutNano)
  }
  if (metadata.length > 0) into.set(metadata, at)
}

/** Bytes of an encoded OK response. The status is left out, as Go does. */
export function responseSize(payload: Uint8Array): number {
  return payload.length === 0 ? 0 : fieldSize(payload.length)
}

/** Writes an OK response of `responseSize` bytes. */
export function writeResponse(into: Buffer, at: number, payload: Uint8Array): void {
  if (payload.length > 0) writeField(into, at, 2, payload)
}

/** An encoded response that is nothing but a status. */
export function encodeStatus(status: Status): Buffer {
  const message = Buffer.from(status.message)
  const details = status.details.map(encodeAny)
  let size = 1 + varintSize(status.code) + fieldSize(message.length)
  for (const detail of details) size += fieldSize(detail.length)
  const bytes = Buffer.alloc(fieldSize(size))
  bytes[0] = tag(1, wireType.bytes)
  let at = writeVarint(bytes, 1, size)
  bytes[at] = tag(1, wireType.varint)
  at = writeVarint(bytes, at + 1, status.code)
  at = writeField(bytes, at, 2, message)
  for (const detail of details) at = writeField(bytes, at, 3, detail)
  return bytes
}

function encodeAny(detail: ErrorDetail): Buffer {
  const url = Buffer.from(detail.type_url)
  const bytes = Buffer.alloc(fieldSize(url.length) + fieldSize(detail.value.length))
  writeField(bytes, writeField(bytes, 0, 1, url), 2, detail.value)
  return bytes
}

// Receiving

/**
 * Decodes a request. Fields it does not know, or that have another wire type, are stepped over; of a repeated single
 * field the last one counts.
 * @throws DecodeError
 */
export function decodeRequest(bytes: Buffer, start: number, end: number, metadataPairsMax: number): RequestEnvelope {
  const request = { service: '', method: '', payloadStart: end, payloadEnd: end, timeoutNano: 0, metadata: noMetadata }
  const reader = new Reader(bytes, start, end)
  let metadata: Pairs | undefined
  let pairs = 0
  for (let field = reader.tag(); field !== 0; field = reader.tag()) {
    switch (field) {
      case tag(1, wireType.bytes):
        request.service = reader.string()
        break
      case tag(2, wireType.bytes):
        request.method = reader.string()
        break
      case tag(3, wireType.bytes): {
        const length = reader.length()
        request.payloadStart = reader.at
        request.payloadEnd = reader.at += length
        break
      }
      case tag(4, wireType.varint):
        request.timeoutNano = reader.int64()
        break
      case tag(5, wireType.bytes):
        if (++pairs > metadataPairsMax) throw new DecodeError(`more than ${metadataPairsMax} metadata pairs`)
        metadata ??= newPairs()
        addPair(metadata, reader.nested())
        break
      default:
        reader.skip(field)
    }
  }
  if (metadata !== undefined) request.metadata = metadata
  return request
}

function addPair(metadata: Pairs, reader: Reader): void {
  let key = ''
  let value = ''
  for (let field = reader.tag(); field !== 0; field = reader.tag()) {
    if (field === tag(1, wireType.bytes)) key = reader.string().toLowerCase()
    else if (field === tag(2, wireType.bytes)) value = reader.string()
    else reader.skip(field)
  }
  const values = metadata[key]
  if (values === undefined) metadata[key] = [value]
  else values.push(value)
}

/**
 * Decodes a response.
 * @throws DecodeError
 */
export function decodeResponse(bytes: Buffer, start: number, end: number): ResponseEnvelope {
  const response: ResponseEnvelope = { status: undefined, payloadStart: -1, payloadEnd: -1 }
  const reader = new Reader(bytes, start, end)
  for (let field = reader.tag(); field !== 0; field = reader.tag()) {
    if (field === tag(2, wireType.bytes)) {
      const length = reader.length()
      response.payloadStart = reader.at
      response.payloadEnd = reader.at += length
    } else if (field === tag(1, wireType.bytes)) {
      response.status ??= { code: 0, message: '', details: [] }
      readStatus(response.status, reader.nested())
    } else reader.skip(field)
  }
  return response
}

function readStatus(status: Status, reader: Reader): void {
  for (let field = reader.tag(); field !== 0; field = reader.tag()) {
    if (field === tag(1, wireType.varint)) status.code = reader.int32()
    else if (field === tag(2, wireType.bytes)) status.message = reader.string()
    else if (field === tag(3, wireType.bytes)) {
      const full = status.details.length === statusDetailsMax
      if (full) throw new DecodeError(`more than ${statusDetailsMax} status details`)
      status.details.push(readAny(reader.nested()))
    } else reader.skip(field)
  }
}

/** Details of one status. */
const statusDetailsMax = 256

function readAny(reader: Reader): ErrorDetail {
  let url = ''
  let value: Buffer = noBytes
  for (let field = reader.tag(); field !== 0; field = reader.tag()) {
    if (field === tag(1, wireType.bytes)) url = reader.string()
    else if (field === tag(2, wireType.bytes)) {
      const length = reader.length()
      value = Buffer.from(reader.bytes.subarray(reader.at, reader.at + length))
      reader.at += length
    } else reader.skip(field)
  }
  return { type_url: url, value }
}
