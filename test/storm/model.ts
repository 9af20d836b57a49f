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
}

export interface PodModel {
  readonly name: string
  readonly pod: Pod
  readonly containers: Map<string, ContainerModel>
  /** A process of its VM was killed or stopped. */
  struck: boolean
  /** Its stop was asked for. */
  stopped: boolean
}

export const lives = ({ struck, stopped }: PodModel): boolean => !struck && !stopped

export class Model {
  readonly pods = new Set<PodModel>()
  #names = 0

  name(prefix: string): string {
    return `${prefix}${this.#names++}`
  }

  add(name: string, pod: Pod): void {
    this.pods.add({ name, pod, containers: new Map(), struck: false, stopped: false })
  }

  get living(): readonly PodModel[] {
    return [...this.pods].filter(lives)
  }
}
