/**
 * Whether KVM works here. The device alone proves nothing: on a machine whose CPU lacks (or hides) the
 * virtualisation extensions /dev/kvm may still open, and the guest's kernel then never boots.
 */
import { constants } from 'node:fs'
import { open, readFile } from 'node:fs/promises'
import { RuntimeError, explain } from '#shared/errors.ts'

export const acceleratorSettings = ['auto', 'kvm', 'tcg'] as const
export type AcceleratorSetting = (typeof acceleratorSettings)[number]
/** Hardware virtualisation, or QEMU's translation of every guest instruction. */
export type Accelerator = 'kvm' | 'tcg'

export interface KvmFacts {
  /** Text of /proc/cpuinfo */
  readonly cpuinfo: string
  /** Why /dev/kvm cannot be opened; undefined when it can */
  readonly deviceError: string | undefined
}

/** Undefined when KVM is usable, else why not. */
export function kvmObstacle({ cpuinfo, deviceError }: KvmFacts): string | undefined {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(' ') ?? []
  if (!flags.includes('vmx') && !flags.includes('svm'))
    return 'the CPU offers no hardware virtualisation (neither vmx nor svm among the flags of /proc/cpuinfo)'
  return deviceError === undefined ? undefined : `/dev/kvm cannot be opened: ${deviceError}`
}

export interface AcceleratorChoice {
  readonly accelerator: Accelerator
  readonly warning: string | undefined
}

/** Errors: FAILED_PRECONDITION when `kvm` is demanded and cannot be had. */
export function chooseAccelerator(setting: AcceleratorSetting, facts: KvmFacts): AcceleratorChoice {
  if (setting === 'tcg') return { accelerator: 'tcg', warning: undefined }
  const obstacle = kvmObstacle(facts)
  if (obstacle === undefined) return { accelerator: 'kvm', warning: undefined }
  if (setting === 'kvm')
    throw new RuntimeError('FAILED_PRECONDITION', `accel = "kvm" cannot be had: ${obstacle}; set accel to "auto" or "tcg"`)
  return { accelerator: 'tcg', warning: `running guests by emulation (TCG), many times slower than KVM: ${obstacle}` }
}

/** Chooses anew each time, for what is missing may come; KVM that was there stays. */
export class Accelerators {
  readonly #facts: () => Promise<KvmFacts>
  #kvm = false

  constructor(facts: () => Promise<KvmFacts> = readKvmFacts) {
    this.#facts = facts
  }

  /** Errors as `chooseAccelerator` has them. */
  async choose(setting: AcceleratorSetting): Promise<AcceleratorChoice> {
    if (this.#kvm && setting !== 'tcg') return { accelerator: 'kvm', warning: undefined }
    const choice = chooseAccelerator(setting, await this.#facts())
    this.#kvm ||= choice.accelerator === 'kvm'
    return choice
  }
}

async function readKvmFacts(): Promise<KvmFacts> {
  return { cpuinfo: await readFile('/proc/cpuinfo', 'utf8'), deviceError: await openError('/dev/kvm') }
}

async function openError(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, constants.O_RDWR)
    await file.close()
    return undefined
  } catch (error) {
    return explain(error)
  }
}
