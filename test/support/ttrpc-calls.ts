/** What the tests of ttrpc's client share: how calls end, and what a server of bytes answers. */
import { RuntimeError } from '#shared/errors.ts'
import { envelopes, frame, type RawPeer } from './ttrpc-raw.ts'

export const text = (value: string): Buffer => Buffer.from(value)

/** The Int64Value 2. */
export const two = Buffer.from('0802', 'hex')

/** The flags of a half-close. */
export const half = 5

/** A stream's message, the Int64Value 2. */
export const data = (id: number): Buffer => frame(id, 3, 0, two)

/** A Response that is OK. */
export function answer(id: number, payload: Uint8Array): Buffer {
  return frame(id, 2, 0, envelopes.encodeResponse({ payload }))
}

/** A Response that is an error. */
export function refusal(id: number, code: number, message: string): Buffer {
  return frame(id, 2, 0, envelopes.encodeResponse({ status: { code, message, details: [] } }))
}

/** Answers the next request with its own payload. */
export async function echo(peer: RawPeer): Promise<void> {
  const { id, payload } = await peer.request()
  peer.send(answer(id, payload))
}

/** What a promise rejects with, as a RuntimeError. */
export async function failure(promise: Promise<unknown>): Promise<RuntimeError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof RuntimeError) return error
    throw error
  }
  throw new Error('it succeeded')
}

/** Messages with these values, one after the other. */
export async function* values<T>(...items: T[]): AsyncGenerator<{ value: T }> {
  for (const value of items) yield { value }
}

/** Reads a stream's values, up to what ends it. */
export async function collect<T>(items: AsyncIterable<{ value: T }>): Promise<{ values: T[]; error?: unknown }> {
  const all: T[] = []
  try {
    for await (const item of items) all.push(item.value)
  } catch (error) {
    return { values: all, error }
  }
  return { values: all }
}
