"""The journal: what was logged, kept on disk until the tracking server has it.

Every process that tracks writes what it logs to a journal of its own, a folder of append-only files, one write to the
page cache for each operation; a sender delivers it from there. So neither a server that is away nor a process that is
killed loses anything, and nothing waits for the network.

==============  ======================================================================================================
module          what it is
==============  ======================================================================================================
`operations`    what is written: one value for each thing that was logged
`record`        how an operation stands in a file: framed, checksummed, with its time
`segments`      the pieces of a journal, in files or in memory, and how they are read
`chain`         the pieces one behind the other, as they are written, and what happens when the disk does not take more
`files`         copies of artifacts that are still to be uploaded
`tables`        rows that are appended to a table when it can be read
`progress`      how far a journal is delivered, and what the server called the runs in it
`refusals`      values that the server refused for good
`disk`          files that are written whole or not at all, and synced where that is asked
`lock`          whose a journal is
`live`          the journal of this process: bounded, for several threads, in memory where no file can be written
`left`          a journal whose process has ended, taken over by another one
`folder`        where journals are, whose they are, and which were left behind
`inspection`    what can be said about a journal without touching it
`failures`      what can go wrong with a journal itself
`recorder`      what the rest of tracklayer calls: append, flush, begin
`sender`        the thread that delivers a live journal
`delivery`      what is next, and what has to wait
`lanes`         what an operation is about: the run or model whose order it keeps
`holding`       runs that are passed over for the time being, and why
`judging`       whose fault a failure is: the server's, a run's, or that of one thing in it
`isolation`     what the server fails with each time is found, and given up at last
`gathering`     what is logged to a run, with the server's ids, put into its parcel
`parcel`        what is gathered for one run until it is worth a request
`parcels`       the same for all runs of a journal
`flight`        a request that is under way while the next one is prepared
`courier`       what each operation means to the tracking server
`endings`       runs end: by themselves, with their workflow run, or because their try was lost
`late_ends`     ends that come when somebody else may have ended the run
`linkage`       links to runs that are not there yet, and to those that have come since
`identities`    what the server calls the runs and models of a journal
`pending`       where the artifacts of runs are said to be that the server does not know yet
`dead_letters`  what becomes of a value that the server refuses: written down, and told on the run
`recovery`      journals that were left behind are delivered
`inheritance`   those of this process's children, before it ends its stage
`carrying`      a journal leaves a machine whose disk goes away
==============  ======================================================================================================
"""
