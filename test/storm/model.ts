/**
 * What must be so, as far as it can be known. A call that was answered changes the model; of one that failed or was given up
 * nobody can say what it has done, and `sure` is false from then on.
 */
import type { Pod } from '#test/cri/pod.ts'

export interface ContainerModel {
  readonly id: string
  state: 'created' | 'running' | 'exited'
  sure: boolean
  /** The exit code of its own; SIGKILL has another. */
  readonly code: number
  /** Of one that prints so many numbered lines and ends: not one may be missing. */
  readonly lines?: number
  /** Where its log was moved to, the first of them first. */
  readonly moved: string[]
  /** It answers whoever comes to the pod's ECHO_PORT. */
  readonly echoes?: true
  /** Its start was given up: containerd may have left a task, and does not remove it before the pod's stop. */
  givenUp?: true
}

/**
 * no        Nothing was done to the processes of its VM
 * perhaps   They were held up, or something was about that may have ended them
 * surely    One was killed or stopped
 */
export type Struck = 'no' | 'perhaps' | 'surely'

export interface PodModel {
  readonly name: string
  readonly pod: Pod
  readonly containers: Map<string, ContainerModel>
  struck: Struck
  /** Its stop was asked for. */
  stopped: boolean
}

export const lives = ({ struck, stopped }: PodModel): boolean => struck === 'no' && !stopped

export class Model {
  readonly pods = new Set<PodModel>()
  #names = 0

  name(prefix: string): string {
    return `${prefix}${this.#names++}`
  }

  add(name: string, pod: Pod): void {
    this.pods.add({ name, pod, containers: new Map(), struck: 'no', stopped: false })
  }

  get living(): readonly PodModel[] {
    return [...this.pods].filter(lives)
  }
}
