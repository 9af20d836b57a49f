/** Upper bounds of histograms, in seconds. */

/** Of pods' starts and their longer steps: a tenth under KVM to minutes of an emulated guest on a busy machine. */
export const startBuckets = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180]
/** Of calls: most are answered from memory, a Start takes as long as its pod. */
export const callBuckets = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 180]
/** Of what should take no time at all: writes to a tmpfs, the event loop. */
export const shortBuckets = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
