/** What the agent asks of an OCI runtime. Errors are RuntimeErrors that carry the runtime's own words. */

/** Descriptors for a new process; each is the caller's to close. */
export interface ProcessFds {
  readonly stdin: number
  readonly stdout: number
  readonly stderr: number
}

export interface CreateRequest {
  readonly containerId: string
  /** Directory with config.json; scratch files of the runtime go here too. */
  readonly bundle: string
  readonly fds: ProcessFds | undefined
  /** Unix socket that receives the terminal; undefined without one. */
  readonly consoleSocket: string | undefined
  /** The command, for error messages. */
  readonly command: string
}

export interface ExecRequest extends CreateRequest {
  readonly execId: string
  /** The OCI process object, JSON. */
  readonly process: string
  /** Badness the new process starts with; a runtime passes on its own otherwise. */
  readonly oomScoreAdj: number
}

export interface OciRuntime {
  /** The pid of the container's first process, which waits for `start`. */
  create(request: CreateRequest): Promise<number>
  start(containerId: string, bundle: string): Promise<void>
  /** The pid of a process added to a running container. */
  exec(request: ExecRequest): Promise<number>
  pause(containerId: string, bundle: string): Promise<void>
  resume(containerId: string, bundle: string): Promise<void>
  /** `resources`: OCI LinuxResources, JSON. */
  update(containerId: string, bundle: string, resources: string): Promise<void>
  /** Ends what lives, and removes the runtime's state and the cgroup. No error when there is none. */
  delete(containerId: string, bundle: string): Promise<void>
}
