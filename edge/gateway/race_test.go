//go:build race

package gateway

// racing is how much larger stacks are under the race detector.
const racing = 2
