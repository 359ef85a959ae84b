package hivelifecycle

import "time"

// Step names a stage of starting or stopping a hive.
type Step string

// The steps, in about the order in which a start goes through them.
const (
	StepConnect   Step = "connect"
	StepPreflight Step = "preflight"
	StepBinary    Step = "binary"
	StepUpload    Step = "upload"
	StepAdopt     Step = "adopt"
	StepStart     Step = "start"
	StepReady     Step = "ready"
	StepRestart   Step = "restart"
	StepDrain     Step = "drain"
	StepStop      Step = "stop"
	StepRemove    Step = "remove"
	StepWake      Step = "wake"
)

// State says how far a step has come.
type State string

// The states of a step.
const (
	Begun  State = "begun"
	Done   State = "done"
	Failed State = "failed"
)

// Event is one step of one hive with a sentence that can be shown to a person as it is.
type Event struct {
	Node    string    `json:"node"`
	Step    Step      `json:"step"`
	State   State     `json:"state"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// Statuses that a Manager gives to Registrar.HiveStatus; they are the contract's.
const (
	StatusStarting = "starting"
	StatusOnline   = "online"
	StatusOffline  = "offline"
	StatusError    = "error"
	StatusDraining = "draining"
)
