/** What the tests of ttrpc's server share: a server of the Peer service, and the one client it has. */
import type { Test } from 'tap'
import type { RuntimeError } from '#shared/errors.ts'
import { TtrpcServer, type CallReport, type Handlers, type ServerOptions } from '#shared/ttrpc/index.ts'
import { peerHandlers, peerService, type PeerTypes } from '../peer-go/service.ts'
import { text } from './ttrpc-calls.ts'
import { bytesValue, frame, rawClient, request, type RawPeer } from './ttrpc-raw.ts'

/** An encoded request that takes a minute. */
export const slow = request('Echo', text('slow:60000'))

/** A server with a hostile client; both are gone with the scope. */
export async function attack(
  options: ServerOptions = {},
  handlers: Handlers<PeerTypes> = {},
): Promise<AsyncDisposable & { peer: RawPeer; server: TtrpcServer; errors: Error[]; calls: CallReport[]; refused: string[] }> {
  const errors: Error[] = []
  const calls: CallReport[] = []
  const refused: string[] = []
  const onRefused = ({ code }: RuntimeError): void => void refused.push(code)
  const onError = (error: Error): void => void errors.push(error)
  const onCall = (call: CallReport): void => void calls.push(call)
  const server = new TtrpcServer({ onError, onCall, onRefused, ...options }).add(peerService, { ...peerHandlers, ...handlers })
  const client = await rawClient(server)
  const dispose = async (): Promise<void> => {
    client[Symbol.dispose]()
    await server.close()
  }
  return { peer: client.peer, server, errors, calls, refused, [Symbol.asyncDispose]: dispose }
}

/** The connection still works, and nothing else is queued on it. */
export async function alive(t: Test, peer: RawPeer, id = 1001): Promise<void> {
  peer.send(frame(id, 1, 0, request('Echo', text('alive?'))))
  const answer = await peer.response()
  t.match(answer, { id, code: 0, payload: bytesValue(text('alive?')) }, 'the connection lives')
}
