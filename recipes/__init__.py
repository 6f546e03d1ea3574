"""Entry points: the stages and the commands of the project. Each opens its inputs and calls the package.

Stages, in pipeline order; `make(job)` fills a stage folder and returns the facts for its manifest:

    start               convert: a model from the package index as a Hugging Face folder
                        sft: supervised fine-tuning of a start model
                        reference: log-probs of the frozen start model
    on_policy           prompts: the prompts for on-policy pairs
                        sample: answers of the policy to each prompt, one per seed
                        reward: a reward model's score of each answer
    pairs               preference pairs, validated and tokenised
    anchors             a start model's log-probs beside the author's
    train               preference training
    benchmark           benchmark: questions and reference answers
                        answers: a model's answers to them, from files
    generate            generate: completions
                        held_out: a trained model's answers to the held-out prompts, and their reward, for a search
    judge               verdicts of a judge
    duels               duel: verdicts of a judge between the completions of two rows
                        duels: the tables of all duels
    check               verdicts of a program
    capability          scores on lm-eval's tasks
    report              tables, figures and the report page
    sweep               the results of a search

A file of several kinds has a `make_<kind>` for each.

Commands, `python -m recipes.NAME`, most of them with a make target. Stages that can run on their own are commands too:

    reproduce           run a table from scratch and print it
    plan                estimate what a table takes
    status              show the state of its rows
    cancel              remove its jobs from Slurm's queue
    doctor              check whether this machine can run it
    rescore             recompute its scores from the judge's records
    again               set a sealed stage aside, so that it is made again
    why                 show the chain behind one of its numbers
    notebooks           run the notebooks on its report
    dashboard           create the W&B workspace and report
    publish             copy a report into docs/, or draw the weight that each loss gives a pair
    paper               build the reproduction report from docs/, or print the claims with their verdicts
    dynamics            show what training does to the pairs of a file
    calibrate           measure the rate of training steps on this machine
    calibrate_judge     compare a judge with published annotations
    annotations         score published annotations, or write a judge stage's for others
    bench               measure the speed of training beside TRL's
    gpu_check           check that this machine's GPU trains correctly

A file to take away:

    trl_focalpo         FocalPO's loss in TRL's DPOTrainer
"""

from pathlib import Path

from focalpo.running.beginning import begin

begin(Path(__file__).parent)
