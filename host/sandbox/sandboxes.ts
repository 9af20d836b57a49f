/** The sandboxes of this sandboxer, by id. */
import { RuntimeError } from '#shared/errors.ts'
import type { SandboxId } from '#shared/ids.ts'
import { planPod, type PodRequest, type Sizing } from './plan.ts'
import { RECORD_VERSION, type SandboxRecord } from './record.ts'
import { Sandbox } from './sandbox.ts'
import type { SandboxServices } from './services.ts'
import { paths } from './start.ts'

/** Far above what one node runs (Kubernetes: 110). */
const SANDBOXES_MAX = 4096
/** Of a unix socket's address, its NUL included. Source: unix(7), sun_path. */
const SOCKET_PATH_BYTES_MAX = 108
/** A backend may put sockets of names up to this length into a sandbox's directory. */
const SOCKET_NAME_BYTES_MAX = 16

export interface CreateOptions {
  readonly sandboxer: string
  /** containerd's namespace, from the call */
  readonly namespace: string
  readonly sizing: Sizing
  /** For pods that name no cgroup parent */
  readonly cgroupParent: string
}

export class Sandboxes {
  readonly #services: SandboxServices
  readonly #byId = new Map<string, Sandbox>()

  constructor(services: SandboxServices) {
    this.#services = services
  }

  get all(): readonly Sandbox[] {
    return [...this.#byId.values()]
  }

  find(id: string): Sandbox | undefined {
    return this.#byId.get(id)
  }

  /** Errors: NOT_FOUND. */
  get(id: string): Sandbox {
    const sandbox = this.#byId.get(id)
    if (sandbox === undefined) throw new RuntimeError('NOT_FOUND', `sandbox ${JSON.stringify(id)} is not known here`)
    return sandbox
  }

  /**
   * Plans the pod and writes its record; nothing runs yet. Errors: ALREADY_EXISTS; INVALID_ARGUMENT for an unknown
   * sandboxer and for what a sandbox cannot honour. Nothing is left after an error.
   */
  async create(id: SandboxId, request: PodRequest, { sandboxer, namespace, sizing, cgroupParent }: CreateOptions): Promise<Sandbox> {
    const backend = this.#services.backend(sandboxer)
    if (backend === undefined)
      throw new RuntimeError('INVALID_ARGUMENT', `no backend is configured for the sandboxer ${JSON.stringify(sandboxer)}: add a table [backends.${sandboxer === '' ? 'NAME' : sandboxer}] to the sandboxer's configuration`)
    if (this.#byId.has(id)) throw new RuntimeError('ALREADY_EXISTS', `sandbox ${id} exists already`)
    if (this.#byId.size >= SANDBOXES_MAX)
      throw new RuntimeError('RESOURCE_EXHAUSTED', `this sandboxer holds ${this.#byId.size} sandboxes, which is the limit`)
    const room = SOCKET_PATH_BYTES_MAX - Buffer.byteLength(paths(this.#services.sandboxesDir, { id }).dir) - 2
    if (room < SOCKET_NAME_BYTES_MAX)
      throw new RuntimeError('FAILED_PRECONDITION', `sandboxer.state_dir is too long: unix sockets below ${this.#services.sandboxesDir}/${id} would exceed ${SOCKET_PATH_BYTES_MAX} bytes`)
    const plan = planPod(request, sizing, cgroupParent)
    const sandbox = this.#add({
      version: RECORD_VERSION,
      id,
      sandboxer,
      namespace,
      bootId: this.#services.bootId,
      createdAtMs: Date.now(),
      pod: { ...request.pod },
      state: 'created',
      plan: plan,
      owned: [],
      spans: [],
      cgroupProcs: [],
      containers: [],
      published: '0',
    })
    try {
      await sandbox.ledger.save()
    } catch (error) {
      this.#byId.delete(id)
      throw error
    }
    return sandbox
  }

  /** A sandbox an earlier sandboxer recorded; it has yet to be adopted. Errors: INVALID_ARGUMENT for an unknown backend. */
  found(record: SandboxRecord): Sandbox {
    return this.#add(record, true)
  }

  #add(record: SandboxRecord, found = false): Sandbox {
    const backend = this.#services.backend(record.sandboxer)
    if (backend === undefined) throw new RuntimeError('INVALID_ARGUMENT', `no backend is configured for the sandboxer ${record.sandboxer}`)
    const sandbox = new Sandbox(record, backend, this.#services, found, () => this.#byId.delete(record.id))
    this.#byId.set(record.id, sandbox)
    return sandbox
  }
}
