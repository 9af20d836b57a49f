/** The version of the agent; package.json's, which a test compares. */
export const AGENT_VERSION = '0.1.0'

/** The newest version of kuasar.host and kuasar.agent spoken here. */
export const PROTOCOL_VERSION = 1
