/** Our envelopes against protobufjs's, and bytes that no honest peer sends. */
import t from 'tap'
import {
  decodeRequest,
  decodeResponse,
  encodeMetadata,
  encodeMethod,
  encodeStatus,
  requestSize,
  responseSize,
  writeRequest,
  writeResponse,
} from '#shared/ttrpc/envelope.ts'
import type { Metadata } from '#shared/ttrpc/method.ts'
import { envelopes } from '../support/ttrpc-raw.ts'

const pairsMax = 8

function encodeRequest(
  service: string,
  method: string,
  payload: Buffer,
  timeoutNano: number,
  metadata?: Metadata,
): Buffer {
  const prefix = encodeMethod(service, method)
  const pairs = encodeMetadata(metadata)
  const bytes = Buffer.alloc(requestSize(prefix, payload, timeoutNano, pairs))
  writeRequest(bytes, 0, prefix, payload, timeoutNano, pairs)
  return bytes
}

/** Decodes bytes, or hex with spaces between its fields. */
function readRequest(text: string | Buffer) {
  const bytes = typeof text === 'string' ? hex(text) : text
  const { payloadStart, payloadEnd, ...request } = decodeRequest(bytes, 0, bytes.length, pairsMax)
  return { ...request, payload: bytes.subarray(payloadStart, payloadEnd), metadata: { ...request.metadata } }
}

t.test('requests', async (t) => {
  for (const size of [0, 1, 127, 128, 20_000, 3_000_000]) {
    const payload = Buffer.alloc(size, 'p')
    const bytes = encodeRequest('a.b.C', 'Größe', payload, 0)
    const names = { service: 'a.b.C', method: 'Größe' }
    t.ok(bytes.equals(envelopes.encodeRequest(size === 0 ? names : { ...names, payload })), `a payload of ${size}`)
    t.same(readRequest(bytes), { service: 'a.b.C', method: 'Größe', payload, timeoutNano: 0, metadata: {} })
  }
  for (const nanos of ['1', '127', '128', '5000000000', '8640000000000000', '9223372036854774784']) {
    const bytes = encodeRequest('s', 'm', Buffer.alloc(0), Number(nanos))
    t.equal(envelopes.decodeRequest(bytes).timeout_nano, nanos)
    t.equal(readRequest(bytes).timeoutNano, Number(nanos))
  }
  for (const nanos of ['-1', '-5000000000', '-9223372036854775808']) {
    t.equal(
      readRequest(envelopes.encodeRequest({ timeout_nano: nanos })).timeoutNano,
      Number(nanos),
      `a timeout of ${nanos}`,
    )
  }
})

t.test('metadata', async (t) => {
  const bytes = encodeRequest('s', 'm', Buffer.from('p'), 7, { One: ['1'], many: ['a', '', 'b'.repeat(200)], none: [] })
  t.same(envelopes.decodeRequest(bytes).metadata, [
    { key: 'one', value: '1' },
    { key: 'many', value: 'a' },
    { key: 'many', value: '' },
    { key: 'many', value: 'b'.repeat(200) },
  ])
  t.same(readRequest(bytes).metadata, { one: ['1'], many: ['a', '', 'b'.repeat(200)] })

  const hostile = ['__proto__', 'constructor', 'toString', ''].map((key) => ({ key, value: 'x' }))
  const { metadata } = decodeRequest(...whole(envelopes.encodeRequest({ metadata: hostile })), pairsMax)
  t.same(Object.keys(metadata), ['__proto__', 'constructor', 'tostring', ''])
  t.equal(Object.getPrototypeOf(metadata), null)
  t.same(metadata['__proto__'], ['x'])

  const many = Array.from({ length: pairsMax + 1 }, () => ({ key: '', value: '' }))
  t.throws(() => readRequest(envelopes.encodeRequest({ metadata: many })), /more than 8 metadata pairs/)
})

t.test('responses', async (t) => {
  for (const size of [0, 1, 127, 128, 20_000]) {
    const payload = Buffer.alloc(size, 'p')
    const bytes = Buffer.alloc(responseSize(payload))
    writeResponse(bytes, 0, payload)
    t.ok(bytes.equals(envelopes.encodeResponse(size === 0 ? {} : { payload })), `a payload of ${size}`)
    const { status, payloadStart, payloadEnd } = decodeResponse(...whole(bytes))
    t.equal(status, undefined)
    t.ok(size === 0 ? payloadStart === -1 : bytes.subarray(payloadStart, payloadEnd).equals(payload))
  }
  const status = {
    code: 5,
    message: 'größer 🙂',
    details: [
      { type_url: 'type.googleapis.com/a', value: Buffer.from([1, 2, 3]) },
      { type_url: 'b', value: Buffer.alloc(0) },
    ],
  }
  t.ok(encodeStatus(status).equals(envelopes.encodeResponse({ status })))
  t.same(decodeResponse(...whole(encodeStatus(status))).status, status)
  const empty = decodeResponse(...whole(hex('0a00')))
  t.same(empty.status, { code: 0, message: '', details: [] }, 'Rust sends an empty status for OK')
  const negative = envelopes.encodeResponse({ status: { code: -3, message: '', details: [] } })
  t.equal(decodeResponse(...whole(negative)).status?.code, -3)
})

t.test('what else protobuf allows', async (t) => {
  t.equal(readRequest('0a0161 0a0162').service, 'b', 'of a single field the last counts')
  t.equal(readRequest('08012801 0a0162').service, 'b', 'a field with another wire type is unknown')
  t.equal(readRequest('3a0161 410000000000000000 4d00000000 0a0162').service, 'b', 'unknown fields are skipped')
  t.equal(readRequest('4b 53 08ff01 54 4c 0a0162').service, 'b', 'groups too')
  const split = decodeResponse(...whole(hex('0a020805 0a03120178'))).status
  t.same(split, { code: 5, message: 'x', details: [] }, 'a message in two parts is merged')
  t.same(decodeResponse(...whole(hex('0a05 0805 220178'))).status, { code: 5, message: '', details: [] }, 'unknown fields of a status')
})

t.test('malformed bytes', async (t) => {
  const wrong: Readonly<Record<string, string>> = {
    'a tag cut off': '80',
    'a number of eleven bytes': '20ffffffffffffffffffff01',
    'a field number of 0': '0000',
    'a field number above the range': '808080808001 00',
    'a length past the end': '0a0561',
    'a length above 4 GiB': '0a8080808010',
    'a fixed64 cut off': '4100',
    'a fixed32 cut off': '4d00',
    'a group without end': '4b0801',
    'a group with another end': '4b54',
    'an end without group': '4c',
    'wire type 6': '0e',
    'wire type 7': '0f',
    'a pair cut off': '2a030a0561',
    'groups too deep': '4b'.repeat(1000),
  }
  for (const [name, hex] of Object.entries(wrong)) t.throws(() => readRequest(hex), { name: 'DecodeError' }, name)
  const details = Array.from({ length: 300 }, () => ({ type_url: '', value: Buffer.alloc(0) }))
  const response = envelopes.encodeResponse({ status: { code: 1, message: '', details } })
  t.throws(() => decodeResponse(...whole(response)), /more than 256 status details/)
})

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(' ', ''), 'hex')
}

function whole(bytes: Buffer): [Buffer, number, number] {
  return [bytes, 0, bytes.length]
}
