/** Waits without stopping the event loop, which k6's own `sleep` does. */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

/** Uniform in `[0, 2 × mean)`. */
export const about = (mean) => Math.random() * 2 * mean;
